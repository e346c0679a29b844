"""Fetched record batches, kept packed until their records are handled.

A thread of its own talks to Kafka. If it unpacked records, it would compete with the handlers'
thread for the interpreter, and each would interrupt the other at any point. The Kafka thread
therefore only reads the headers of the record batches, which give the offset of the next fetch, and
checks their checksums. Records are unpacked in the handlers' thread.

Subscriptions get records with the fields that they need and no others, which halves the cost of
making them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import structlog
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from famulus.consumer.commits import commit, commit_any
from famulus.errors import UnreadableError
from famulus.kafka.leader_epochs import UNKNOWN
from famulus.kafka.record_batches import DAMAGED, TRIES, UnreadableBatchError, damage, unreadable
from famulus.observability.logs import described
from famulus.serialization.records import Headers
from famulus.state.identity import CommitNote, note_of

log = structlog.get_logger()
QUIET_S = 0.2  # after so long without a record, none flow any more
ENOUGH_BYTES = 64 * 1024  # minimum size of a fetch while records flow
POLL_S = 0.2  # length of a poll without data; a rebalance waits for its end


class FetchedRecord(NamedTuple):
    """One record of a subscription, in the shape of `serialization.records.ConsumerRecord`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class FetchedBatch:
    """One partition's fetch, with its records still packed in record batches.

    The records are those of the log from *first_offset* on. *next_offset* is where reading
    continues; the two are equal when there are no records. *fault* is the reason why no record can
    follow those already unpacked, None for no fault.
    """

    def __init__(self, fetched: PartitionRecords) -> None:
        # This iterator is a reference cycle: only the garbage collector, which runs rarely, would
        # free the bytes.
        fetched._records_iterator = None
        self._fetched = fetched
        self.place: TopicPartition = fetched._tp
        self.fault: UnreadableError | None = None  # why no record can follow the unpacked ones
        # The damaged batch behind the whole ones.
        self.damage: UnreadableBatchError | None = None
        self._batches: deque[Any] = deque()  # aiokafka's, written in C
        self.first_offset: int = fetched.next_fetch_offset
        try:
            while fetched._records.has_next():
                batch = fetched._records.next_batch()
                if fetched._check_crcs and not batch.validate_crc():
                    # Handled like a damaged header.
                    raise CorruptRecordException(DAMAGED)
                self._batches.append(batch)
        except CorruptRecordException:
            self.damage = damage(self.place, self._end, fetched._records)
        # A damaged header may hold any leader epoch.
        self.leader_epoch: int = fetched._records.leader_epoch if self.damage is None else UNKNOWN
        self.next_offset: int = self._end

    @property
    def _end(self) -> int:
        return int(self._batches[-1].next_offset) if self._batches else self.first_offset

    def __len__(self) -> int:
        """Return the largest possible number of records.

        Compaction and transactions leave holes, so that there may be fewer.
        """
        return self.next_offset - self.first_offset

    def __bool__(self) -> bool:
        """Return whether there are records or a fault."""
        return len(self) > 0 or self.fault is not None

    def records(self, limit: int) -> "RecordChunks":
        """Return the records for a subscription, *limit* at a time, see `RecordChunks`."""
        return RecordChunks(self, limit)

    def consumer_records(self) -> list[Any]:
        """Return the records as aiokafka's own ConsumerRecord.

        Raises UnreadableError as `RecordChunks` does.
        """
        records = [self._fetched._consumer_record(self.place, record) for record in self.unpacked()]
        if self.fault is not None:
            raise self.fault
        return records

    def unpacked(self) -> Iterator[Any]:
        """Yield the records batch by batch, and stop at the first *fault*.

        This does the work of aiokafka's `PartitionRecords._unpack_records`.
        """
        first_offset = self.first_offset
        while self._batches:
            batch = self._batches.popleft()  # it takes more memory once unpacked
            if self._is_aborted(batch) or batch.is_control_batch:
                continue
            try:
                # Brokers send whole batches, so the first may begin below the asked offset.
                if batch.base_offset < first_offset:
                    yield from (record for record in batch if record.offset >= first_offset)
                else:
                    yield from batch
            except (KafkaError, UnicodeDecodeError) as error:
                self.fault = fault_of(unreadable(self.place, first_offset, batch, error))
                return

    def skip(self) -> None:
        """Continue behind the batch that *fault* is about."""
        self.fault = None

    def _is_aborted(self, batch: Any) -> bool:
        """Return whether *batch* belongs to an aborted transaction.

        Call this once for each batch, in order.
        """
        fetched = self._fetched
        if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
            return False
        fetched._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and fetched._contains_abort_marker(batch):
            fetched._aborted_producers.discard(batch.producer_id)
        return batch.is_transactional and batch.producer_id in fetched._aborted_producers


class RecordChunks:
    """Iterator over the records of one fetch, in lists of at most *limit*.

    Raises UnreadableError when the checksum of a batch is wrong, or when it cannot be unpacked or
    unpacks to more bytes than allowed. The records before that batch come first. The error is
    raised again by each further call until `skip`.
    """

    def __init__(self, packed: FetchedBatch, limit: int) -> None:
        self._packed = packed
        self._topic, self._partition = packed.place
        self._unpacking = packed.unpacked()
        self._limit = limit

    def __iter__(self) -> Iterator[list[Any]]:
        return self

    def __next__(self) -> list[Any]:  # Any: FetchedRecord, whose fields no Record may set
        topic, partition = self._topic, self._partition
        records = [
            _new(
                FetchedRecord, (topic, partition, r.offset, r.timestamp, r.key, r.value, r.headers)
            )
            for r in islice(self._unpacking, self._limit)
        ]
        if records:
            return records
        raise self._packed.fault or StopIteration

    def skip(self) -> None:
        """Continue behind the batch that could not be read."""
        self._packed.skip()
        self._unpacking = self._packed.unpacked()


def fault_of(error: UnreadableBatchError) -> UnreadableError:
    """Return aiokafka's or our batch *error* as an UnreadableError with its topic and offsets."""
    place, first, following = error.place, error.first_offset, error.next_offset
    return UnreadableError(
        str(error.args[0]), place.topic, first, following, is_stray=error.is_stray
    )


class Damaged:
    """Counts how often each damaged batch was fetched.

    The network may have damaged it, so that a batch is fetched up to TRIES times.
    """

    def __init__(self) -> None:
        self._tries: dict[TopicPartition, tuple[int, int]] = {}  # offset, number of fetches

    def may_be_whole(self, error: UnreadableBatchError) -> bool:
        """Return whether to fetch the batch of *error* again."""
        offset, tries = self._tries.get(error.place, (-1, 0))
        tries = tries + 1 if offset == error.first_offset else 1
        self._tries[error.place] = error.first_offset, tries
        if tries == 1:
            log.warning(
                "a batch came damaged, it is fetched again",
                topic=error.place.topic,
                partition=error.place.partition,
                offset=error.first_offset,
            )
        return tries < TRIES


_new = tuple.__new__  # takes half the time of FetchedRecord's own, which is written in Python


def _take(result: FetchResult, damaged: Damaged) -> FetchedBatch | None:
    """Return the packed records of *result*, None without any.

    This replaces `FetchResult.getall`, but unpacks nothing. The position moves behind the last
    whole batch.
    """
    del result.getall  # its closure refers to *result*: a reference cycle
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return None
    packed = FetchedBatch(result._partition_records)
    if packed.damage is not None and not len(packed) and not damaged.may_be_whole(packed.damage):
        packed.fault = fault_of(packed.damage)
    result._assignment.state_value(result._topic_partition).consumed_to(packed.next_offset)
    result._partition_records = None
    return packed or None


async def take(
    fetcher: Fetcher,
    partitions: Collection[TopicPartition],
    timeout_s: float,
    damaged: Damaged | None = None,
) -> dict[TopicPartition, FetchedBatch]:
    """Return the fetched batches of *partitions*, waiting *timeout_s* seconds at most.

    A damaged batch is fetched again up to TRIES times, then it becomes the fault of the returned
    batch. *damaged* keeps count across calls.
    """
    damaged = damaged or Damaged()
    deadline = time.monotonic() + timeout_s
    while True:
        for result in fetcher._records.values():
            if type(result) is FetchResult:
                result.getall = lambda _max_records, result=result: _take(result, damaged)
        taken: dict[TopicPartition, FetchedBatch] = await fetcher.fetched_records(
            partitions, timeout=0
        )
        left_s = deadline - time.monotonic()
        if taken or left_s <= 0:
            return taken
        waiter = fetcher._create_fetch_waiter()
        done, _ = await asyncio.wait([waiter], timeout=left_s)
        if not done:
            waiter.cancel()
            return {}
        if waiter.exception() is not None:  # an error of the group; `membership` handles it
            return {}


class AdaptiveFetch:
    """Fetch wait and minimum size, adapted to whether records flow.

    While no record comes, a fetch waits long and the first record answers it. While records flow,
    each record would be a fetch of its own, which costs a hundred times as much as a record. The
    broker is then asked to gather records for *linger_ms* or until there are ENOUGH_BYTES. With
    *linger_ms* 0 it never gathers.
    """

    def __init__(self, quiet_wait_ms: int, linger_ms: int) -> None:
        self._quiet = 1, quiet_wait_ms
        self._flowing = (ENOUGH_BYTES, linger_ms) if linger_ms else self._quiet
        self._last_s = -QUIET_S

    def apply(self, fetcher: Fetcher, *, came: bool) -> None:
        """Note whether records *came*, and set the options of the next fetches."""
        now = time.monotonic()
        if came:
            self._last_s = now
        is_flowing = now - self._last_s < QUIET_S
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = (
            self._flowing if is_flowing else self._quiet
        )


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Thread that talks to Kafka, in place of Faust's.

    Faust's own has three faults. Its fetch wait of 1500 ms is fixed, which stalls a partition next
    to one without new records. Its polls pass through a queue between the threads that costs four
    times as much as a poll. A poll waits for the end of a rebalance, which itself waits for the end
    of the poll before it revokes partitions: see `transport.Consumer._poll`.
    """

    # Partitions left out of the last commit because the cluster does not have them any more.
    uncommitted: AbstractSet[TP] = frozenset()

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # records of aborted transactions are not read
        # `AutoOffsetReset` applies only to topics without any commit of the group, see
        # `start_offsets`. When a log loses records under its reader, reading continues with the
        # earliest record that is left.
        consumer._auto_offset_reset = "earliest"
        config = self.app.settings.kafka.consumer_config  # type: ignore[attr-defined]
        # Requests during an assignment wait behind the first fetch, so this wait must be short.
        consumer._fetch_max_wait_ms = config.fetch_max_wait_ms
        self._damaged = Damaged()
        self._pace = AdaptiveFetch(config.fetch_max_wait_ms, config.fetch_linger_ms)
        return consumer

    # Faust's signature.
    async def getmany(self, active_partitions: Any, timeout: float) -> Any:
        """Return the fetched batches by partition."""
        polling = self._fetch_records(self._ensure_consumer(), active_partitions, timeout)
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(polling, self.thread_loop)
        )

    async def _fetch_records(
        # Faust's signature.
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,
        max_records: int | None = None,  # Faust's
    ) -> Any:
        if not self.consumer.flow_active:
            return {}
        if consumer._closed or consumer._fetcher._closed:
            raise ConsumerStoppedError
        try:
            # `take` does not suspend between taking records and returning them, so this time limit
            # loses none.
            async with asyncio.timeout(2 * POLL_S):
                taken = await take(
                    consumer._fetcher, active_partitions, timeout or 0, self._damaged
                )
                self._pace.apply(consumer._fetcher, came=bool(taken))
                return taken
        except TimeoutError:
            return {}

    def look_anew(self) -> None:
        """Refresh the client's topic metadata now.

        The client itself does so every five minutes.
        """
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._client.force_metadata_update)

    def rejoin(self) -> None:
        """Join the group again, with a rebalance that revokes and assigns partitions."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._coordinator.request_rejoin)

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Return every partition of *topics* that the client knows."""
        consumer = self._ensure_consumer()
        return {
            TP(topic, number)
            for topic in topics
            for number in consumer.partitions_for_topic(topic) or ()
        }

    async def commits(self, partitions: Collection[TP]) -> dict[TP, int]:
        """Return the group's committed offsets of *partitions*, without those that have none."""
        return {
            tp: at.offset
            for tp, at in (await self._committed(partitions)).items()
            if at.offset >= 0
        }

    async def commit_notes(self, partitions: Collection[TP]) -> dict[TP, CommitNote]:
        """Return the notes in the commit metadata of *partitions*.

        Partitions without a commit are left out.
        """
        return {tp: note_of(at.metadata) for tp, at in (await self._committed(partitions)).items()}

    async def _committed(self, partitions: Collection[TP]) -> dict[TP, OffsetAndMetadata]:
        coordinator = self._ensure_consumer()._coordinator
        found = await self.call_thread(
            coordinator.fetch_committed_offsets, [TopicPartition(*tp) for tp in partitions]
        )
        return {TP(*tp): at for tp, at in found.items()}

    async def commit_first(self, offsets: Mapping[TP, int]) -> bool:
        """Commit for partitions without a commit, including those of other members.

        Returns False when the commit fails.
        """
        places = {TopicPartition(*tp): offset for tp, offset in offsets.items()}
        try:
            await self.call_thread(commit_any, self._ensure_consumer(), places)
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "not committed, it will be tried again", error=described(error.__cause__ or error)
            )
            return False
        return True

    def join_again(self) -> None:
        """Clear the error that the coordinator keeps and join the group again."""

        def take() -> None:
            coordinator = self._ensure_consumer()._coordinator
            coordinator.request_rejoin()  # else a heartbeat task that has ended is not restarted
            with suppress(KafkaError):
                coordinator.check_errors()

        self.thread_loop.call_soon_threadsafe(take)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit *offsets*; return False when it fails, and the next interval tries again.

        Faust's own method crashes the worker instead.
        """
        note = self.app.state_manager.note  # type: ignore[attr-defined]
        held = {
            TopicPartition(*tp): offset for tp, offset in offsets.items() if tp in self.assignment()
        }
        try:
            gone = await commit(self._ensure_consumer(), held, note=lambda at: note(TP(*at)))
        except (KafkaError, TimeoutError) as error:
            log.warning(
                "not committed, it will be tried again", error=described(error.__cause__ or error)
            )
            return False
        self.uncommitted = {TP(at.topic, at.partition) for at in gone}
        return True
