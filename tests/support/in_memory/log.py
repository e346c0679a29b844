"""A cluster in memory: one changelog partition, and the ways to it that fail, lag and deliver late."""

import asyncio
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from famulus.kafka.topic_ids import Topic, Topics
from famulus.serialization.records import Headers, ProducerRecord
from famulus.state.changelog import (
    MARK,
    PACK,
    PROCESSED,
    ROW,
    Logged,
    SourcePosition,
    decode_processed,
    epoch_of,
    unpack,
)
from famulus.state.identity import ChangelogPartition

TOPIC = "state"
PLACE = TopicPartition(TOPIC, 0)
CLUSTER = "cluster-1"


@dataclass(frozen=True)
class Entry:
    """A record of the log."""

    offset: int
    key: bytes
    value: bytes | None
    headers: Headers


class Log:
    """One changelog partition, and what `restore.LogReader` can do with it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.begin = 0
        self.end = 0
        self.topic_id = "id-1"

    @property
    def home(self) -> ChangelogPartition:
        """What a state in it belongs to."""
        return ChangelogPartition(CLUSTER, TOPIC, self.topic_id, 0)

    def append(self, rows: Iterable[tuple[bytes, bytes | None]], headers: Headers) -> int:
        """Append a batch whole; returns the offset of its first record."""
        first = self.end
        for key, value in rows:
            self.entries.append(Entry(self.end, key, value, headers))
            self.end += 1
        return first

    def compact(self) -> None:
        """Keep the newest record of each key."""
        newest = {entry.key: entry for entry in self.entries}
        self.entries = [entry for entry in self.entries if newest[entry.key] is entry]

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """What there is from *start* to the present end."""
        await asyncio.sleep(0)
        return [entry for entry in self.entries if entry.offset >= start]

    @asynccontextmanager
    async def consumer(self, places: Iterable[TopicPartition]) -> AsyncIterator[Any]:
        """A consumer of the log."""
        yield Consumer(self)


class Consumer:
    """What aiokafka's consumer does, as far as restoring asks for it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._at = 0

    async def beginning_offsets(
        self, places: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where the log begins."""
        return dict.fromkeys(places, self._log.begin)

    async def end_offsets(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where it ends now."""
        return dict.fromkeys(places, self._log.end)

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Read from *offset* on."""
        self._at = offset

    async def position(self, place: TopicPartition) -> int:
        """What is read next."""
        return self._at

    async def getmany(
        self, *places: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[Entry]]:
        """Some records, a handful only: slices must not matter."""
        await asyncio.sleep(0)
        found = [entry for entry in self._log.entries if entry.offset >= self._at][
            : min(max_records, 7)
        ]
        self._at = found[-1].offset + 1 if found else self._log.end
        return {PLACE: found} if found else {}


class Sending(NamedTuple):
    """What becomes of one batch: turns of the loop until it is in the log, and until its sender knows.

    *fails*: `before` it is in the log, `after`, or `late`: at once, although it will be in the log.
    """

    before: int = 0
    after: int = 0
    fails: str = ""


class Wire:
    """One worker's way to the cluster: `commit.Sender`.

    *sendings* says what becomes of each batch, then all is well.

    A batch under way arrives although its sender has died, unless *is_lost_at_death*.
    """

    def __init__(
        self,
        log: Log,
        published: list[ProducerRecord],
        sendings: Iterable[Sending] = (),
        is_dead: Callable[[], bool] = lambda: False,
        *,
        is_lost_at_death: bool = False,
    ) -> None:
        self._log = log
        self._published = published
        self._sendings = iter(sendings)
        self._is_dead = is_dead
        self._is_lost_at_death = is_lost_at_death
        self.under_way: set[asyncio.Task[int]] = set()
        self.batches: list[list[tuple[bytes, bytes | None]]] = []

    async def send_all(self, records: Sequence[ProducerRecord]) -> None:
        """Publish *records*."""
        await asyncio.sleep(0)
        if self._is_dead():
            raise asyncio.CancelledError
        self._published.extend(records)

    async def topics(self, names: Collection[str]) -> Topics:
        """Each topic has one partition; all but the log's have an id made of their name."""
        await asyncio.sleep(0)
        return Topics(
            CLUSTER,
            {n: Topic(self._log.topic_id if n == TOPIC else f"id of {n}", 1) for n in names},
        )

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int], topics: Topics
    ) -> dict[TopicPartition, int]:
        """Nobody tells."""
        return {}

    async def send_batch(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        headers: Headers,
    ) -> Awaitable[int]:
        """Send a batch on its way."""
        if self._is_dead():
            raise asyncio.CancelledError
        sending = next(self._sendings, Sending())
        self.batches.append(list(rows))
        carried = asyncio.create_task(self._carry(self.batches[-1], headers, sending))
        self.under_way.add(carried)
        carried.add_done_callback(self.under_way.discard)
        answer = asyncio.shield(carried)
        for future in (carried, answer):
            # Nobody may be there to ask.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return _failed() if sending.fails == "late" else answer

    async def _carry(
        self, rows: list[tuple[bytes, bytes | None]], headers: Headers, sending: Sending
    ) -> int:
        for _ in range(sending.before):
            await asyncio.sleep(0)
        if sending.fails == "before":
            raise OSError("the broker is away")
        if self._is_lost_at_death and self._is_dead():
            return -1
        offset = self._log.append(rows, headers)
        for _ in range(sending.after):
            await asyncio.sleep(0)
        if sending.fails == "after":
            raise OSError("the broker is away")
        return offset


def _failed() -> "asyncio.Future[int]":
    failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    failed.set_exception(OSError("no answer in time"))
    failed.exception()  # nobody may be there to ask
    return failed


class Fold(NamedTuple):
    """What the log says: made without the engine's help."""

    rows: dict[bytes, bytes]
    marks: dict[bytes, tuple[int, int]]
    processed: SourcePosition


def fold(log: Log) -> Fold:
    """Rows, when each mark was seen and where, and how far the source is processed."""
    epoch, newest = 0, dict[bytes, bytes | None]()
    marks: dict[bytes, tuple[int, int]] = {}
    for entry in log.entries:
        if epoch_of(entry.headers) < epoch:
            continue
        epoch = epoch_of(entry.headers)
        if entry.key[:1] == PACK and entry.value is None:
            for mark, seen in unpack(newest.get(entry.key) or b""):
                if marks.get(mark) == _seen(seen):
                    del marks[mark]
        elif entry.key[:1] == PACK:
            marks |= {mark: _seen(raw) for mark, raw in unpack(entry.value or b"")}
        newest[entry.key] = entry.value
    rows = {key: value for key, value in newest.items() if key[:1] == ROW and value is not None}
    raw = newest.get(PROCESSED)
    return Fold(rows, marks, decode_processed(raw) if raw else SourcePosition(0))


def kept(store: Any) -> Fold:
    """The same as a store has it."""
    marks = {key: _seen(mark) for key, mark in store.items(MARK)}
    raw = store.get(PROCESSED)
    return Fold(dict(store.items(ROW)), marks, decode_processed(raw) if raw else SourcePosition(0))


def _seen(raw: bytes) -> tuple[int, int]:
    """When a mark says that its event was seen, and at which offset."""
    return int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")
