"""The state's changelogs from outside of any worker: read and folded, or written to under a claim of one's own.

The fold is a plain one with dicts, which shares the formats with the engine (`state.changelog`) and
nothing else: so `state verify` is a second opinion. It holds one partition's rows and marks in
memory.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec.structs import replace

from famulus.application import Famulus
from famulus.errors import (
    ConfigError,
    InvariantError,
    OperatingError,
    UnavailableError,
    UnreadableError,
)
from famulus.kafka.admin import partitions_of
from famulus.kafka.log_reader import log_consumer, poll
from famulus.kafka.record_batches import UnreadableBatchError
from famulus.kafka.topic_ids import Topics
from famulus.observability.logs import described
from famulus.processing.subscription import Subscription
from famulus.state.changelog import (
    ATTEMPTS,
    CLAIM,
    DEAD,
    PACK,
    PROCESSED,
    RESET,
    ROW,
    WHOLE,
    Logged,
    SourcePosition,
    batches,
    decode_claim,
    decode_processed,
    epoch_headers,
    epoch_of,
    fault_in,
    unpack,
    whole_since,
)
from famulus.state.changelog_topic import Sender, append_claim
from famulus.state.identity import ChangelogPartition

POLL_S = 0.2
Progressed = Callable[[int], None]  # is told how many more records were read
Rows = Iterable[tuple[bytes, bytes | None]]


@dataclass
class Fold:
    """What a changelog partition says up to *until*, None for all of it.

    *later* has the keys written after that.

    Rows, most of a log, are kept only where *keeps_rows*.
    """

    until: int | None = None
    keeps_rows: bool = True
    rows: dict[bytes, bytes] = field(default_factory=dict)
    packs: dict[bytes, bytes] = field(default_factory=dict)
    # Attempts at events, and dead letters that block keys.
    failure_state: dict[bytes, bytes] = field(default_factory=dict)
    marks: dict[bytes, bytes] = field(default_factory=dict)  # as a store keeps them
    processed: bytes | None = None
    # Keys whose newest record is not one, and its offset.
    unreadable: dict[bytes, int] = field(default_factory=dict)
    strays: int = 0  # records that no owner wrote, or that cannot be read
    epoch: int = 0
    worker: str = ""  # of the newest claim
    begin: int = 0  # of the log
    end: int = 0
    # The offset from which on the log says all of the state, -1 while it is written back.
    whole_since: int = 0
    later: set[bytes] = field(default_factory=set)

    def add(self, record: Logged) -> None:
        """The next record of the log."""
        key, value = record.key, record.value
        if self.until is not None and record.offset > self.until:
            self.later.add(key)
            return
        if self._counts(record):
            self._apply(key, value, record.offset)

    def _counts(self, record: Logged) -> bool:
        """Whether an owner of the partition wrote *record*, as the newest one so far."""
        key, epoch = record.key, epoch_of(record.headers)
        if fault_in(key, record.value, epoch):
            self.strays += 1
            if key and key != CLAIM and epoch >= max(self.epoch, 1):
                self.unreadable[key] = record.offset
            return False
        if epoch < self.epoch:
            return False  # its writer had lost the partition
        self.epoch = epoch
        self.unreadable.pop(key, None)
        return True

    def _apply(self, key: bytes, value: bytes | None, offset: int) -> None:
        if key[:1] == ROW:
            if self.keeps_rows:
                _set(self.rows, key, value)
        elif key[:1] == PACK:
            self._pack(key, value)
        elif key[:1] in (ATTEMPTS, DEAD):
            _set(self.failure_state, key, value)
        else:
            self._control(key, value, offset)

    def _control(self, key: bytes, value: bytes | None, offset: int) -> None:
        if key == PROCESSED:
            self.processed = value
        elif key == CLAIM and value is not None:
            self.worker = decode_claim(value).worker
        elif key == RESET:
            self.rows, self.packs, self.marks, self.failure_state, self.processed = (
                {},
                {},
                {},
                {},
                None,
            )
            self.unreadable = {}
            self.whole_since = offset
        elif key == WHOLE and value is not None:
            self.whole_since = whole_since(value)

    def _pack(self, key: bytes, value: bytes | None) -> None:
        if value is not None:
            self.marks.update(unpack(value))
        else:
            for mark, seen in unpack(self.packs.get(key, b"")):
                if self.marks.get(mark) == seen:  # else the event was seen again since
                    del self.marks[mark]
        _set(self.packs, key, value)

    @property
    def is_whole(self) -> bool:
        """Whether the log says all of the state."""
        return self.begin <= self.whole_since

    @property
    def next_offset(self) -> int | None:
        """Up to where the source is processed, None when nothing says so."""
        return None if self.processed is None else self.decoded.next_offset

    @property
    def decoded(self) -> SourcePosition:
        """The processed row."""
        return SourcePosition(0) if self.processed is None else decode_processed(self.processed)


def _set(of: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        of.pop(key, None)
    else:
        of[key] = value


class TooMuchError(OperatingError):
    """There is more to read than whoever reads may take up."""


def check_size(topic: str, records: int, records_max: int | None) -> None:
    """Raise TooMuchError when there are more than *records_max*; None is no limit."""
    if records_max is not None and records > records_max:
        raise TooMuchError(
            f"{topic} has {records:,} records to read, more than the {records_max:,} that a "
            "worker reads for its "
            "console: ask by the command"
        )


class Logs:
    """Reads changelogs. Made by `reading`."""

    def __init__(self, consumer: AIOKafkaConsumer, timeout_s: float) -> None:
        self._consumer = consumer
        self._timeout_s = timeout_s

    async def fold(
        self,
        at: TopicPartition,
        progressed: Progressed = lambda _: None,
        until: int | None = None,
        records_max: int | None = None,
        *,
        keeps_rows: bool = True,
    ) -> Fold:
        """What the partition says.

        Raises TimeoutError when no record came for the time that a start may take.

        TooMuchError when it has more than *records_max*.
        """
        consumer, fold = self._consumer, Fold(until, keeps_rows)
        consumer.assign([at])
        begins, ends = await consumer.beginning_offsets([at]), await consumer.end_offsets([at])
        fold.begin, fold.end = begins[at], ends[at]
        check_size(at.topic, fold.end - fold.begin, records_max)
        consumer.seek(at, fold.begin)
        waited_s = 0.0
        while await consumer.position(at) < fold.end:
            records = (await poll(consumer, at, timeout_ms=int(POLL_S * 1000))).get(at, [])
            waited_s = 0.0 if records else waited_s + POLL_S
            if waited_s > self._timeout_s:
                raise TimeoutError(f"no record of {at.topic}-{at.partition} came")
            for record in records:
                if record.offset < fold.end:
                    fold.add(record)
            progressed(len(records))
        return fold

    async def has_records(self, at: TopicPartition, first: int, end: int) -> bool:
        """Tell whether a partition has records from offset *first* up to *end*; markers are none.

        Raises TimeoutError when none came for the time that a start may take.
        """
        consumer = self._consumer
        consumer.assign([at])
        first = max(first, (await consumer.beginning_offsets([at]))[at])
        end = min(end, (await consumer.end_offsets([at]))[at])
        if first >= end:
            return False
        consumer.seek(at, first)
        waited_s = 0.0
        while await consumer.position(at) < end:
            records = (await consumer.getmany(at, timeout_ms=int(POLL_S * 1000))).get(at, [])
            if any(record.offset < end for record in records):
                return True
            waited_s += POLL_S
            if waited_s > self._timeout_s:
                raise TimeoutError(f"no record of {at.topic}-{at.partition} came")
        return False


@asynccontextmanager
async def reading(app: Famulus) -> AsyncIterator[Logs]:
    """Read changelogs. What goes wrong with the cluster inside becomes an UnavailableError."""
    consumer = log_consumer(app.settings.kafka)
    async with answered(app):
        try:
            await consumer.start()
            await asyncio.sleep(0)  # aiokafka's stop fails when its tasks never had their turn
            yield Logs(consumer, app.settings.worker.startup_timeout_s)
        finally:
            await consumer.stop()


@asynccontextmanager
async def answered(app: Famulus) -> AsyncIterator[None]:
    """Make an UnavailableError of what Kafka raises, an UnreadableError of records that are damaged."""
    try:
        yield
    except UnreadableBatchError as error:
        raise UnreadableError(str(error.args[0])) from None
    except (TimeoutError, KafkaError) as error:
        raise UnavailableError(
            f"the Kafka broker at {app.settings.kafka.bootstrap_servers} does not answer any more "
            f"({described(error)}); do it again when it does"
        ) from error


class Writer:
    """Writes to one partition of a changelog under a claim of its own, and raises when somebody else does so too."""

    def __init__(self, sender: Sender, at: TopicPartition, group_bytes: int) -> None:
        self._sender = sender
        self._at = at
        self._group_bytes = group_bytes
        self._next = 0
        self._epoch = 0

    async def claim(self, fold: Fold) -> None:
        """Own the partition, which says *fold* up to its end.

        Raises InvariantError when it says more by now.
        """
        self._next, self._epoch = fold.end, fold.epoch + 1
        _, offset = await append_claim(
            self._sender, self._at.topic, self._at.partition, self._epoch
        )
        self._wrote(offset, 1)

    async def write(self, rows: Rows) -> int:
        """Write *rows* in record batches as large as groups may be; returns how many.

        Raises as `claim` does.
        """
        count = 0
        for batch in batches(rows, self._group_bytes):
            sent = await self._sender.send_batch(
                self._at.topic, self._at.partition, batch, epoch_headers(self._epoch)
            )
            self._wrote(await sent, len(batch))
            count += len(batch)
        return count

    def _wrote(self, first: int, count: int) -> None:
        if first != self._next:
            raise InvariantError(
                f"somebody else wrote to {self._at.topic}-{self._at.partition} meanwhile: stop "
                "every worker of the "
                "group, then do it again"
            )
        self._next += count


# What is spoken of.


@dataclass(frozen=True)
class Belonging:
    """What the state of a *subscription* belongs to now. Made by `belonging`."""

    topics: Topics
    subscription: Subscription

    def home(self, partition: int) -> ChangelogPartition:
        """The changelog partition."""
        topic = self.subscription.state_topic
        assert topic is not None
        there = self.topics.of.get(topic)
        return ChangelogPartition(
            self.topics.cluster_id, topic, there.id if there is not None else "", partition
        )

    @property
    def source_id(self) -> str:
        """The id of the source."""
        there = self.topics.of.get(self.subscription.topic_name)
        return there.id if there is not None else ""

    def taken_on(self, processed: SourcePosition, partition: int) -> SourcePosition:
        """The same *processed* as one of these topics, whatever it was written for: an operator says so."""
        return replace(
            processed, home=self.home(partition), source_id=self.source_id, leader_epoch=-1
        )


async def belonging(app: Famulus, subscription: Subscription) -> Belonging:
    """Ask by the app's sender, which is connected. Raises what that does."""
    names = [
        subscription.topic_name,
        *([subscription.state_topic] if subscription.state_topic else []),
    ]
    return Belonging(await app.sender.topics(names), subscription)


def subscription_of(app: Famulus, name: str) -> Subscription:
    """The subscription of a topic, by its name in models or on the cluster.

    Raises ConfigError with the known ones.
    """
    for subscription in app.subscriptions.values():
        if name in (subscription.name, subscription.topic_name):
            return subscription
    raise ConfigError(
        f"no subscription reads topic {name!r}; there are: {', '.join(app.subscriptions) or 'none'}"
    )


def subscriptions_of(app: Famulus, name: str | None) -> list[Subscription]:
    """That subscription, or all. Raises as `subscription_of` does."""
    return list(app.subscriptions.values()) if name is None else [subscription_of(app, name)]


async def places_of(
    app: Famulus, subscriptions: Iterable[Subscription]
) -> Mapping[Subscription, list[TopicPartition]]:
    """The changelog partitions of each, none where there is no changelog (yet).

    Raises UnavailableError.
    """
    topics = {s: s.state_topic for s in subscriptions}
    there = await partitions_of(
        app.settings.kafka, [t for t in topics.values() if t], app.settings.worker.startup_timeout_s
    )
    return {
        s: [TopicPartition(topic, number) for number in range(there.get(topic, 0))] if topic else []
        for s, topic in topics.items()
    }


async def source_partitions(app: Famulus, subscription: Subscription) -> int:
    """How many partitions the source has.

    Raises ConfigError when it is missing, UnavailableError.
    """
    name = subscription.topic_name
    there = await partitions_of(app.settings.kafka, [name], app.settings.worker.startup_timeout_s)
    if name not in there:
        raise ConfigError(f"missing topics: {name}; create them with `faust -A app topics apply`")
    return there[name]
