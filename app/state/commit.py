"""The group commit: everything that a group of events did, durable in one piece.

Kafka appends a record batch whole or not at all. So a group's rows, marks and how far the source is processed go out as
one record batch, and when Kafka has it, into the store as one write. The order is the promise:

1. the events that the group publishes are acknowledged,
2. the record batch is acknowledged,
3. the store is written,
4. and only then do the group's offsets count as finished.

What Kafka did with a batch whose acknowledgement never came nobody can tell, so such a group is never made again: the
process ends, and whoever has the partition next learns it from the log.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from app.errors import InvariantError
from app.state.changelog import (
    CLAIM,
    PACK,
    PROCESSED,
    Logged,
    Processed,
    decode_claim,
    encode,
    epoch_headers,
    epoch_of,
    newest_ms,
    pack,
    pack_key,
    period_of,
    unpack,
)
from app.state.dedupe import Dedupe
from app.state.partition import Group, Rows
from app.state.store import STALE, Store, StoreError
from app.state.windows import Window, in_window, start_of
from app.wire.envelope import Headers, Outgoing

log = structlog.get_logger()
RETRY_S = 1.0  # between two tries to write to a disk that is full
ROWS_AT_ONCE = 500  # of closed windows, removed with each group
PACKS_AT_ONCE = 2  # forgotten with each group: more than a group adds, so that forgetting keeps up
Probe = Callable[[str], None]


class FencedError(InvariantError):
    """Another worker has claimed the partition: what this one had in hand counts no more (exit 70)."""


class Sender(Protocol):
    """The way to Kafka, injected: `publish.producer.Producer` has this shape."""

    async def send_all(self, records: Sequence[Outgoing]) -> object:
        """Send all and wait until the cluster has them."""

    async def send_batch(
        self, topic: str, partition: int, rows: Iterable[tuple[bytes, bytes | None]], headers: Headers
    ) -> Awaitable[int]:
        """Send *rows* as one record batch. The result gives the offset of the first one, -1 when it is not told."""


class Reader(Protocol):
    """The way back: `restore.LogReader` has this shape."""

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """What a partition has from *start* to its end."""


class Settler:
    """Settles the groups of one partition under one claim. *probe* is told each step, for tests that die there."""

    def __init__(  # noqa: PLR0913, PLR0917  # all that it joins
        self, topic: str, partition: int, store: Store, dedupe: Dedupe | None, windows: Mapping[bytes, Window],
        sender: Sender, reader: Reader, probe: Probe = lambda _: None, *, is_fenced: bool = True,
    ) -> None:  # fmt: skip
        self.topic = topic
        self.partition = partition
        self.store = store
        self._dedupe = dedupe
        self._windows = windows  # of tables, by what their rows begin with
        self._sender = sender
        self._reader = reader
        self._probe = probe
        self._is_fenced = is_fenced
        self._epoch = store.epoch
        self._headers = epoch_headers(store.epoch)
        self._packs = 0
        self._oldest_period: int | None = None  # of the packs there are, as far as known
        self._oldest_start = dict.fromkeys(windows, 0)  # of the windows that have rows, at least

    async def settle(self, group: Group, processed: Processed, may_apply: Callable[[], bool]) -> bool:
        """Make *group* durable, and that the source is *processed* so far.

        *may_apply* is asked last: the partition may have been taken away meanwhile. False when it was; nothing was
        written to the store then, and whoever has the partition now decides by the log. Raises FencedError, and what
        the sender raises.
        """
        packs = self._packed(group)
        forgotten = self._forgotten(processed.stream_ms)
        closed = self._closed(processed.stream_ms)
        self._note_late(group)
        for key in closed:
            group.rows.setdefault(key, None)
        rows: Rows = {**group.rows, **packs, **dict.fromkeys(forgotten), PROCESSED: encode(processed)}
        self._probe("sending")
        sent = await self._sender.send_batch(self.topic, self.partition, rows.items(), self._headers)
        self._probe("sent")
        first = await sent
        self._probe("acknowledged")
        if not may_apply():
            return False
        last = first + len(rows) - 1
        if first != self.store.position + 1 and self._is_fenced:
            last = await self._find_out(rows)

        def new_batch() -> Any:
            batch = self.store.batch()
            forget(self.store, batch, forgotten.values())  # first: an event that came again has a new mark in the group
            fill(batch, rows)
            fill(batch, group.marks)
            return batch

        return await self._write(new_batch, last, may_apply)

    async def start(self) -> None:
        """Overrule what workers without a claim wrote while nobody looked. Raises what the sender raises."""
        stale = [key for key, _ in self.store.items(STALE)]
        await self.repair(key.removeprefix(STALE) for key in stale)
        if stale:
            batch = self.store.batch()
            for key in stale:
                batch.delete(key)
            self.store.write(batch, self.store.position, self._epoch)

    async def repair(self, keys: Iterable[bytes], sent: Rows | None = None) -> None:
        """Write again what we know under *keys*, which a worker without a claim has written to.

        Else compaction might keep what that one wrote. What was *sent* is newer than the store. Raises what the sender
        raises.
        """
        sent = sent or {}
        rows = {key: sent[key] if key in sent else self._present(key, sent) for key in keys}
        if rows:
            log.warning("records of a worker without a claim are overruled", topic=self.topic,
                        partition=self.partition, records=len(rows))  # fmt: skip
            await (await self._sender.send_batch(self.topic, self.partition, rows.items(), self._headers))

    def _present(self, key: bytes, sent: Rows) -> bytes | None:
        """What we know under *key*; of a pack without the marks that were renewed since, which it would set back."""
        value = self.store.get(key)
        if value is None or key[:1] != PACK:
            return value
        renewed = {mark for other, of in sent.items() if other[:1] == PACK and of for mark, _ in unpack(of)}
        marks = dict(unpack(value))
        now = zip(marks.items(), self.store.get_many(list(marks)), strict=True)
        return pack({mark: seen for (mark, seen), stored in now if stored == seen and mark not in renewed})

    async def _find_out(self, sent: Rows) -> int:
        """Somebody else wrote: read what. Returns the offset of our newest record, of those just *sent*.

        Raises FencedError when the partition was claimed. Other records are those of a worker that has lost it.
        """
        last, stale = -1, set()
        for record in await self._reader.read(self.topic, self.partition, self.store.position + 1):
            if record.key == CLAIM and record.value is not None and decode_claim(record.value).epoch > self._epoch:
                claim = decode_claim(record.value)
                raise FencedError(
                    f"{self.topic}-{self.partition} was claimed by {claim.worker} while this worker was away "
                    f"(epoch {claim.epoch}, ours {self._epoch}); what was in hand is left to it"
                )
            if epoch_of(record.headers) == self._epoch:
                last = record.offset
            elif record.key != CLAIM:
                stale.add(record.key)
        assert last >= 0, "a batch that was acknowledged is not in the log"
        await self.repair(stale, sent)
        return last

    async def _write(self, new_batch: Callable[[], Any], position: int, may_apply: Callable[[], bool]) -> bool:
        """Write to the store, again and again while the disk does not take it: nothing is finished before it has.

        A batch can be written once, also when that failed, so each try has a *new_batch*.
        """
        has_failed = False
        while may_apply():
            try:
                if has_failed:
                    self.store.reopen()
                self.store.write(new_batch(), position, self._epoch)
            except StoreError as error:
                log.error(  # noqa: TRY400  # a full disk, no bug
                    "nothing is settled until the disk takes it", error=str(error), again_in_s=RETRY_S
                )
                has_failed = True
                await asyncio.sleep(RETRY_S)
            else:
                self._probe("written")
                return True
        return False

    # Marks.

    def _packed(self, group: Group) -> dict[bytes, bytes]:
        """The marks of *group* as a pack, of the period that its newest one belongs to."""
        if not group.marks or self._dedupe is None:
            return {}
        self._packs += 1
        newest = newest_ms(group.marks)
        return {pack_key(newest - newest % self._dedupe.period_ms, self._epoch, self._packs): pack(group.marks)}

    def _forgotten(self, stream_ms: int) -> dict[bytes, bytes]:
        """The oldest packs, if nobody can ask for their marks any more: a few, so that it costs a little each time."""
        if self._dedupe is None:
            return {}
        expired_ms = stream_ms - self._dedupe.longest_ms - self._dedupe.period_ms
        if self._oldest_period is not None and self._oldest_period >= expired_ms:
            return {}
        found: dict[bytes, bytes] = {}
        for key, value in self.store.items(PACK):
            self._oldest_period = period_of(key)
            if self._oldest_period >= expired_ms or len(found) == PACKS_AT_ONCE:
                break
            found[key] = value
        else:
            self._oldest_period = None if found else stream_ms
        return found

    # Windows.

    def _closed(self, stream_ms: int) -> Rows:
        """Rows of windows that are kept no more, as deleted: a few, so that it costs a little each time."""
        found: Rows = {}
        for prefix, window in self._windows.items():
            limit_ms = window.expired_before(stream_ms)
            if self._oldest_start[prefix] >= limit_ms:
                continue
            for key, _ in self.store.items(prefix, in_window(max(self._oldest_start[prefix], 0), b"")):
                self._oldest_start[prefix] = start_of(key[len(prefix) :])
                if self._oldest_start[prefix] >= limit_ms or len(found) >= ROWS_AT_ONCE:
                    break
                found[key] = None
            else:
                self._oldest_start[prefix] = limit_ms
        return found

    def _note_late(self, group: Group) -> None:
        """Rows of *group* in windows that were looked through before are to be found the next time."""
        for prefix, oldest in self._oldest_start.items():
            starts = [start_of(key[len(prefix) :]) for key in group.rows if key.startswith(prefix)]
            self._oldest_start[prefix] = min([oldest, *starts])


def forget(store: Store, batch: Any, packs: Iterable[bytes]) -> None:
    """Delete the marks of *packs* in *batch*, unless their events were seen again since."""
    for value in packs:
        marks = list(unpack(value))
        for (key, mark), now in zip(marks, store.get_many([key for key, _ in marks]), strict=True):
            if now == mark:
                batch.delete(key)


def fill(batch: Any, rows: Mapping[bytes, bytes | None]) -> None:
    """Put *rows* into a WriteBatch as they are in the changelog."""
    put, delete = batch.put, batch.delete
    for key, value in rows.items():
        if value is None:
            delete(key)
        else:
            put(key, value)
