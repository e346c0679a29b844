"""Reader of topics outside of any consumer group, and the index of dead letters."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import groupby
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from famulus.application import Famulus
from famulus.config import KafkaConfig
from famulus.deadletter.dead_letter import Audit, audit_in, parse_dead_letter
from famulus.deadletter.index import Criteria, DeadLetterIndex, Entry, Place
from famulus.deadletter.topics import audit_topic, dead_letter_topic
from famulus.errors import ConfigError, UnreadableError
from famulus.inspection.changelog_reader import answered, check_size
from famulus.kafka.admin import partitions_of
from famulus.kafka.client import client_options
from famulus.kafka.log_reader import POLL_MS, read_to
from famulus.kafka.record_batches import TRIES, UnreadableBatchError
from famulus.kafka.silence import silenced
from famulus.processing.subscription import Subscription
from famulus.serialization.stray_records import StrayRecordError, read

# Called once with the number of records to read, then with the number read since the last call.
Progressed = Callable[[int, int | None], None]
GAP = 1_000  # unwanted records that are read over, since a seek would cost more
READ_AT_ONCE = 500
STOP_S = 3.0  # longest wait for the consumer to stop when no broker answers


class Reader:
    """Reader of committed records. Made by `reading`."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: KafkaConfig, timeout_s: float) -> None:
        self._consumer = consumer
        self._settings = settings
        self._timeout_s = timeout_s
        self._at: TopicPartition | None = None
        self._spans: dict[TopicPartition, tuple[int, int]] = {}  # first and end offset
        self._partitions: dict[str, int] = {}  # number, by topic

    async def partitions(self, *topics: str) -> dict[str, int]:
        """Return the number of partitions of each topic, 0 for one that does not exist."""
        if unknown := [topic for topic in topics if topic not in self._partitions]:
            there = await partitions_of(self._settings, unknown, self._timeout_s)
            self._partitions.update({topic: there.get(topic, 0) for topic in unknown})
        return {topic: self._partitions[topic] for topic in topics}

    async def all(
        self,
        topic: str,
        partitions: int,
        progressed: Progressed = lambda *_: None,
        records_max: int | None = None,
    ) -> AsyncIterator[Any]:
        """Yield every record that the topic has now, in order within each partition.

        Raises TimeoutError when no record arrives for `Worker.StartupTimeoutS`, TooMuchError when
        there are more than *records_max*.
        """
        places = [TopicPartition(topic, number) for number in range(partitions)]
        if not places:
            return
        consumer = self._consumer
        consumer.assign(places)
        self._at = None
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        count = sum(ends.values()) - sum(begins.values())
        check_size(topic, count, records_max)
        progressed(0, count)
        await consumer.seek_to_beginning(*places)
        async for _, records in read_to(
            consumer, ends, timeout_s=self._timeout_s, max_records=READ_AT_ONCE
        ):
            for record in records:
                yield record
            progressed(len(records), None)

    async def between(self, at: TopicPartition, start: int, stop: int) -> AsyncIterator[Any]:
        """Yield the existing records of a partition from offset *start* to before *stop*.

        Raises UnreadableError at the first record that cannot be read, after those in front of it,
        and TimeoutError when no record arrives for `Worker.StartupTimeoutS`.
        """
        consumer = self._consumer
        if self._at != at:
            consumer.assign([at])
            self._at = at
            consumer.seek(at, start)
        elif not start - GAP <= await consumer.position(at) <= start:
            consumer.seek(at, start)
        if at not in self._spans or self._spans[at][1] < stop:
            self._spans[at] = await self.span(at)
        begin, end = self._spans[at]
        stop = min(stop, end)
        if await consumer.position(at) < begin:
            consumer.seek(at, begin)
        waited_ms, step, tries = 0, READ_AT_ONCE, 0
        while (position := await consumer.position(at)) < stop:
            most = min(stop - position, step)
            try:
                records = (await consumer.getmany(at, timeout_ms=POLL_MS, max_records=most)).get(
                    at, []
                )
            except UnreadableBatchError as error:
                step, tries = 1, tries + 1  # one record at a time up to the unreadable batch
                if position >= error.first_offset and (tries > TRIES or not error.is_damaged):
                    self._at = None  # forces the next call to seek
                    raise UnreadableError(
                        str(error.args[0]), at.topic, error.first_offset, error.next_offset
                    ) from None
                continue
            tries = 0 if records else tries
            waited_ms = 0 if records else waited_ms + POLL_MS
            self._check(waited_ms, at.topic)
            for record in records:
                if start <= record.offset < stop:
                    yield record

    async def span(self, at: TopicPartition) -> tuple[int, int]:
        """Return the first and the end offset of a partition. Raises TimeoutError."""
        async with asyncio.timeout(self._timeout_s):  # aiokafka itself retries for much longer
            begins, ends = (
                await self._consumer.beginning_offsets([at]),
                await self._consumer.end_offsets([at]),
            )
            return begins[at], ends[at]

    async def letters(self, topic: str, entries: Iterable[Entry]) -> Mapping[Place, ConsumerRecord]:
        """Return the records of *entries* by place, as far as they still exist."""
        found: dict[Place, ConsumerRecord] = {}
        wanted = sorted(entry.place for entry in entries)
        for partition, places in groupby(wanted, key=lambda place: place[0]):
            offsets = {offset for _, offset in places}
            for start, stop in runs(sorted(offsets)):
                async for record in self.between(TopicPartition(topic, partition), start, stop):
                    if record.offset in offsets:
                        found[partition, record.offset] = record
        return found

    async def one(self, topic: str, partition: int, offset: int) -> ConsumerRecord | None:
        """Return the record at an offset, None if there is none (any more)."""
        if partition >= (await self.partitions(topic))[topic]:
            return None
        async for record in self.between(TopicPartition(topic, partition), offset, offset + 1):
            return record
        return None

    def _check(self, waited_ms: int, topic: str) -> None:
        if waited_ms > self._timeout_s * 1000:
            raise TimeoutError(f"no record of {topic} came")


def runs(offsets: Iterable[int], gap: int = GAP) -> list[tuple[int, int]]:
    """Return the ranges, first offset and end, that cover *offsets* in few reads.

    *offsets* must ascend. Offsets at most *gap* apart share a range.
    """
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and offset - found[-1][1] <= gap:
            found[-1] = found[-1][0], offset + 1
        else:
            found.append((offset, offset + 1))
    return found


@asynccontextmanager
async def reading(app: Famulus) -> AsyncIterator[Reader]:
    """Open a reader of topics; errors inside are translated as by `answered`."""
    kafka, timeout_s = app.settings.kafka, app.settings.worker.startup_timeout_s
    consumer = _consumer(kafka)
    reader = Reader(consumer, kafka, timeout_s)
    letters = [app.dead_letter_topic(subscription) for subscription in app.subscriptions.values()]
    # Waits for a broker that is still starting, and fills the cache.
    await reader.partitions(*letters, *map(audit_topic, letters))
    with silenced():
        async with answered(app):
            try:
                await consumer.start()
                await asyncio.sleep(0)  # aiokafka's stop() fails if its tasks have never run
                yield reader
            finally:
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_S):
                        await consumer.stop()


def _consumer(settings: KafkaConfig) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **client_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=settings.consumer_config.max_partition_fetch_bytes,
    )


async def register_of(
    app: Famulus,
    reader: Reader,
    subscription: Subscription,
    criteria: Criteria,
    *,
    group: str | None = None,
    is_all: bool = False,
    noted: Callable[[Audit], None] = lambda _: None,
    progressed: Progressed = lambda *_: None,
    records_max: int | None = None,
) -> DeadLetterIndex:
    """Read the dead letters of a group in *subscription*, and the actions taken on them.

    *group* is this app's unless it is given. *noted* is called with each audit record, *progressed*
    as by `Reader.all` for the dead letters. Raises ConfigError when the dead letter topic is
    missing, TooMuchError when one of the two topics has more than *records_max* records.
    """
    group = group or app.group
    topic = letters_topic(app, subscription, group)
    audits = audit_topic(topic)
    there = await reader.partitions(topic, audits)
    if not there[topic]:
        raise ConfigError(f"missing topics: {topic}; create them with `faust -A app topics apply`")
    register = DeadLetterIndex(group, criteria, is_all=is_all)
    async for record in reader.all(audits, there[audits], records_max=records_max):
        try:
            audit = read(record, audit_in)
        except StrayRecordError:
            register.strange_audits += 1
        else:
            register.note(audit)
            noted(audit)
    async for record in reader.all(topic, there[topic], progressed, records_max):
        try:
            register.add(read(record, parse_dead_letter), (record.partition, record.offset))
        except StrayRecordError:
            register.strange += 1
    return register


def letters_topic(app: Famulus, subscription: Subscription, group: str) -> str:
    """Return the topic of the dead letters of *group*, as named on the cluster."""
    return dead_letter_topic(
        subscription.topic_name, group if app.settings.dead_letter.per_group else ""
    )
