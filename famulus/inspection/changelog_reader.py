"""Access to state changelogs from outside of any worker: read and fold, or claim and write.

The fold uses plain dicts and shares only the record formats (`state.changelog`) with the engine, so
`state verify` is an independent check of the stores. The rows and marks of one partition are held
in memory.
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
from famulus.kafka.log_reader import log_consumer, read_to
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

Progressed = Callable[[int], None]  # called with the number of records read since the last call
Rows = Iterable[tuple[bytes, bytes | None]]


@dataclass
class Fold:
    """State of one changelog partition, folded from its records up to offset *until*.

    *until* None means the whole log. *later* holds the keys of records after *until*. Rows, most of
    a log, are kept only if *keeps_rows*.
    """

    until: int | None = None
    keeps_rows: bool = True
    rows: dict[bytes, bytes] = field(default_factory=dict)
    packs: dict[bytes, bytes] = field(default_factory=dict)
    # Attempts at events, and dead letters that block keys.
    failure_state: dict[bytes, bytes] = field(default_factory=dict)
    marks: dict[bytes, bytes] = field(default_factory=dict)  # in the format of a store
    processed: bytes | None = None
    # Keys whose newest record cannot be read, with the offset of that record.
    unreadable: dict[bytes, int] = field(default_factory=dict)
    strays: int = 0  # records not written by an owner of the partition, or unreadable
    epoch: int = 0
    worker: str = ""  # of the newest claim
    begin: int = 0  # of the log
    end: int = 0
    # Offset from which on the log holds the complete state; -1 while the state is being rewritten.
    whole_since: int = 0
    later: set[bytes] = field(default_factory=set)

    def add(self, record: Logged) -> None:
        """Add *record*, the next one of the log."""
        key, value = record.key, record.value
        if self.until is not None and record.offset > self.until:
            self.later.add(key)
            return
        if self._counts(record):
            self._apply(key, value, record.offset)

    def _counts(self, record: Logged) -> bool:
        """Return whether *record* is valid and written by the newest owner so far."""
        key, epoch = record.key, epoch_of(record.headers)
        if fault_in(key, record.value, epoch):
            self.strays += 1
            if key and key != CLAIM and epoch >= max(self.epoch, 1):
                self.unreadable[key] = record.offset
            return False
        if epoch < self.epoch:
            return False  # its writer had already lost the partition to a newer owner
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
        """Return whether the log still holds the complete state."""
        return self.begin <= self.whole_since

    @property
    def next_offset(self) -> int | None:
        """Return the offset up to which the source is processed, None when unknown."""
        return None if self.processed is None else self.decoded.next_offset

    @property
    def decoded(self) -> SourcePosition:
        """Return the decoded source position, at offset 0 if the log has none."""
        return SourcePosition(0) if self.processed is None else decode_processed(self.processed)


def _set(of: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        of.pop(key, None)
    else:
        of[key] = value


class TooMuchError(OperatingError):
    """More records to read than the limit of the caller."""


def check_size(topic: str, records: int, records_max: int | None) -> None:
    """Raise TooMuchError if *records* exceeds *records_max*; None means no limit."""
    if records_max is not None and records > records_max:
        raise TooMuchError(
            f"{topic} has {records:,} records to read, more than the {records_max:,} that a "
            "worker reads for its "
            "console: ask by the command"
        )


class Logs:
    """Reader of changelogs. Made by `reading`."""

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
        """Read the changelog partition *at* and return its fold.

        *progressed* is called with the number of records read since its last call. *until* and
        *keeps_rows* are those of `Fold`. Raises TimeoutError when no record arrives for
        `Worker.StartupTimeoutS`, and TooMuchError when the partition has more than *records_max*
        records.
        """
        consumer, fold = self._consumer, Fold(until, keeps_rows)
        consumer.assign([at])
        begins, ends = await consumer.beginning_offsets([at]), await consumer.end_offsets([at])
        fold.begin, fold.end = begins[at], ends[at]
        check_size(at.topic, fold.end - fold.begin, records_max)
        consumer.seek(at, fold.begin)
        async for _, records in read_to(consumer, {at: fold.end}, timeout_s=self._timeout_s):
            for record in records:
                fold.add(record)
            progressed(len(records))
        return fold

    async def has_records(self, at: TopicPartition, first: int, end: int) -> bool:
        """Return whether a partition has records from offset *first* to before *end*.

        Transaction markers do not count. Raises TimeoutError when no record arrives for
        `Worker.StartupTimeoutS`.
        """
        consumer = self._consumer
        consumer.assign([at])
        first = max(first, (await consumer.beginning_offsets([at]))[at])
        end = min(end, (await consumer.end_offsets([at]))[at])
        if first >= end:
            return False
        consumer.seek(at, first)
        async for _, records in read_to(consumer, {at: end}, timeout_s=self._timeout_s):
            if records:
                return True
        return False


@asynccontextmanager
async def reading(app: Famulus) -> AsyncIterator[Logs]:
    """Open a reader of changelogs; errors inside are translated as by `answered`."""
    consumer = log_consumer(app.settings.kafka)
    async with answered(app):
        try:
            await consumer.start()
            await asyncio.sleep(0)  # aiokafka's stop() fails if its tasks have never run
            yield Logs(consumer, app.settings.worker.startup_timeout_s)
        finally:
            await consumer.stop()


@asynccontextmanager
async def answered(app: Famulus) -> AsyncIterator[None]:
    """Translate errors of Kafka to UnavailableError, damaged records to UnreadableError."""
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
    """Writer to one changelog partition under an ownership claim of its own.

    Raises InvariantError when another process writes to the partition at the same time.
    """

    def __init__(self, sender: Sender, at: TopicPartition, group_bytes: int) -> None:
        self._sender = sender
        self._at = at
        self._group_bytes = group_bytes
        self._next = 0
        self._epoch = 0

    async def claim(self, fold: Fold) -> None:
        """Claim the partition, whose state is *fold* up to its end.

        Raises InvariantError when records were written after that end.
        """
        self._next, self._epoch = fold.end, fold.epoch + 1
        _, offset = await append_claim(
            self._sender, self._at.topic, self._at.partition, self._epoch
        )
        self._wrote(offset, 1)

    async def write(self, rows: Rows) -> int:
        """Write *rows* in record batches of at most `group_bytes` bytes; return their number.

        Raises InvariantError when another process has written meanwhile.
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


# Subscriptions, and the topics and partitions of their state.


@dataclass(frozen=True)
class Belonging:
    """Identity of the topics that the state of *subscription* belongs to now.

    Made by `belonging`.
    """

    topics: Topics
    subscription: Subscription

    def home(self, partition: int) -> ChangelogPartition:
        """Return the identity of the changelog partition for source partition *partition*.

        Its topic id is empty if the changelog does not exist.
        """
        topic = self.subscription.state_topic
        assert topic is not None
        there = self.topics.of.get(topic)
        return ChangelogPartition(
            self.topics.cluster_id, topic, there.id if there is not None else "", partition
        )

    @property
    def source_id(self) -> str:
        """Return the topic id of the source, empty if the topic does not exist."""
        there = self.topics.of.get(self.subscription.topic_name)
        return there.id if there is not None else ""

    def taken_on(self, processed: SourcePosition, partition: int) -> SourcePosition:
        """Return *processed* as a position in these topics, by decision of an operator.

        The topics that it was written for do not matter. Its leader epoch becomes -1, unknown.
        """
        return replace(
            processed, home=self.home(partition), source_id=self.source_id, leader_epoch=-1
        )


async def belonging(app: Famulus, subscription: Subscription) -> Belonging:
    """Look up the topics of *subscription* by the sender of *app*, which must be connected.

    Raises what the sender raises.
    """
    names = [
        subscription.topic_name,
        *([subscription.state_topic] if subscription.state_topic else []),
    ]
    return Belonging(await app.sender.topics(names), subscription)


def subscription_of(app: Famulus, name: str) -> Subscription:
    """Return the subscription of a topic, by its name in models or on the cluster.

    Raises ConfigError, which lists the known topics, when there is none.
    """
    for subscription in app.subscriptions.values():
        if name in (subscription.name, subscription.topic_name):
            return subscription
    raise ConfigError(
        f"no subscription reads topic {name!r}; there are: {', '.join(app.subscriptions) or 'none'}"
    )


def subscriptions_of(app: Famulus, name: str | None) -> list[Subscription]:
    """Return the subscription of topic *name*, or all if it is None.

    Raises ConfigError when no subscription reads that topic.
    """
    return list(app.subscriptions.values()) if name is None else [subscription_of(app, name)]


async def places_of(
    app: Famulus, subscriptions: Iterable[Subscription]
) -> Mapping[Subscription, list[TopicPartition]]:
    """Return the changelog partitions of each subscription.

    The list is empty where there is no changelog (yet). Raises UnavailableError.
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
    """Return the number of partitions of the source topic.

    Raises ConfigError when the topic is missing, and UnavailableError.
    """
    name = subscription.topic_name
    there = await partitions_of(app.settings.kafka, [name], app.settings.worker.startup_timeout_s)
    if name not in there:
        raise ConfigError(f"missing topics: {name}; create them with `faust -A app topics apply`")
    return there[name]
