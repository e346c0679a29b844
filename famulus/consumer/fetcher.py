"""What a fetch brought, left as it came until somebody wants its records.

Kafka is spoken to in a thread of its own, which unpacks records while the handlers' thread wants
the interpreter too: the two take it from each other in the middle of everything. So that thread
only reads the headers of the record batches, which say where to fetch next, and looks whether their
bytes are whole; the records are unpacked where they are handled. Subscriptions get records with no
more than they need, which halves the cost of making them.
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
QUIET_S = 0.2  # without a record: nothing flows any more
ENOUGH_BYTES = 64 * 1024  # of one fetch while records flow
POLL_S = 0.2  # a poll without data; a rebalance waits for its end


class FetchedRecord(NamedTuple):
    """One record of a subscription: what `wire.envelope.Record` asks for."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class FetchedBatch:
    """One partition's fetch, its records still packed in batches: those of the log from *first_offset* on.

    *next_offset* is where to go on reading; the two are equal when there is nothing in it.
    """

    def __init__(self, fetched: PartitionRecords) -> None:
        # It holds what holds it: the garbage collector alone would let go of the bytes, and it
        # comes rarely.
        fetched._records_iterator = None
        self._fetched = fetched
        self.place: TopicPartition = fetched._tp
        self.fault: UnreadableError | None = None  # why nothing follows what was unpacked
        # What stands behind the batches that are whole.
        self.damage: UnreadableBatchError | None = None
        self._batches: deque[Any] = deque()  # of aiokafka's, in C
        self.first_offset: int = fetched.next_fetch_offset
        try:
            while fetched._records.has_next():
                batch = fetched._records.next_batch()
                if fetched._check_crcs and not batch.validate_crc():
                    # As where the header is damaged.
                    raise CorruptRecordException(DAMAGED)  # noqa: TRY301
                self._batches.append(batch)
        except CorruptRecordException:
            self.damage = damage(self.place, self._end, fetched._records)
        # What is damaged may say any.
        self.leader_epoch: int = fetched._records.leader_epoch if self.damage is None else UNKNOWN
        self.next_offset: int = self._end

    @property
    def _end(self) -> int:
        return int(self._batches[-1].next_offset) if self._batches else self.first_offset

    def __len__(self) -> int:
        """How many records there are at most: compaction and transactions leave holes."""
        return self.next_offset - self.first_offset

    def __bool__(self) -> bool:
        """Whether somebody has to know of it."""
        return len(self) > 0 or self.fault is not None

    def records(self, limit: int) -> "RecordChunks":
        """The records of a subscription, *limit* at a time, see `Chunks`."""
        return RecordChunks(self, limit)

    def consumer_records(self) -> list[Any]:
        """The records as aiokafka's own ConsumerRecord. Raises as `Chunks` does."""
        records = [self._fetched._consumer_record(self.place, record) for record in self.unpacked()]
        if self.fault is not None:
            raise self.fault
        return records

    def unpacked(self) -> Iterator[Any]:
        """What `PartitionRecords._unpack_records` does, a batch at a time, up to a *fault*."""
        first_offset = self.first_offset
        while self._batches:
            batch = self._batches.popleft()  # it grows when it is unpacked
            if self._is_aborted(batch) or batch.is_control_batch:
                continue
            try:
                # Brokers send whole batches, from the one with the offset on.
                if batch.base_offset < first_offset:
                    yield from (record for record in batch if record.offset >= first_offset)
                else:
                    yield from batch
            except (KafkaError, UnicodeDecodeError) as error:
                self.fault = fault_of(unreadable(self.place, first_offset, batch, error))
                return

    def skip(self) -> None:
        """Go on behind what is at *fault*."""
        self.fault = None

    def _is_aborted(self, batch: Any) -> bool:
        """Whether the batch belongs to a transaction that was aborted.

        Asked for each in turn, and once.
        """
        fetched = self._fetched
        if fetched._isolation_level != READ_COMMITTED or batch.producer_id is None:
            return False
        fetched._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and fetched._contains_abort_marker(batch):
            fetched._aborted_producers.discard(batch.producer_id)
        return batch.is_transactional and batch.producer_id in fetched._aborted_producers


class RecordChunks:
    """The records of one fetch, so many at a time.

    Raises UnreadableError, again and again, when a batch is not what its checksum says, cannot be
    unpacked, or to more than it may. What stands before it comes first.
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
        """Go on behind what could not be read."""
        self._packed.skip()
        self._unpacking = self._packed.unpacked()


def fault_of(error: UnreadableBatchError) -> UnreadableError:
    """*error* in words of ours."""
    place, first, following = error.place, error.first_offset, error.next_offset
    return UnreadableError(
        str(error.args[0]), place.topic, first, following, is_stray=error.is_stray
    )


class Damaged:
    """The damaged batches that came: each is asked for again, since a network may have done it, so many times."""

    def __init__(self) -> None:
        self._tries: dict[TopicPartition, tuple[int, int]] = {}  # the offset, and how often it came

    def may_be_whole(self, error: UnreadableBatchError) -> bool:
        """Whether to ask for it again."""
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


_new = tuple.__new__  # half the time of the class's own, which is Python


def _take(result: FetchResult, damaged: Damaged) -> FetchedBatch | None:
    """What `FetchResult.getall` does without unpacking anything: the position moves behind the last whole batch."""
    del result.getall  # which holds it, too
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
    """What has been fetched of *partitions*, waiting for it for *timeout_s* at most.

    A batch that came *damaged* is fetched again some times, then it is the fault of what is
    returned.
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
        if waiter.exception() is not None:  # of the group, which the membership looks at
            return {}


class AdaptiveFetch:
    """How long the broker gathers records before it answers a fetch.

    While nothing comes, a fetch waits long and is answered by the first record. While records flow,
    each would be a fetch of its own, which costs a hundred times what a record costs: so the broker
    is asked to gather them for *linger_ms*, or until there are enough. 0 never gathers.
    """

    def __init__(self, quiet_wait_ms: int, linger_ms: int) -> None:
        self._quiet = 1, quiet_wait_ms
        self._flowing = (ENOUGH_BYTES, linger_ms) if linger_ms else self._quiet
        self._last_s = -QUIET_S

    def apply(self, fetcher: Fetcher, *, came: bool) -> None:
        """Note whether records *came*, and have the next fetches go accordingly."""
        now = time.monotonic()
        if came:
            self._last_s = now
        is_flowing = now - self._last_s < QUIET_S
        fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = (
            self._flowing if is_flowing else self._quiet
        )


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that speaks with Kafka.

    Faust hard-codes a fetch wait of 1500 ms, which stalls a partition next to a drained one. Its
    polls go through a queue between the threads that costs four times what a poll needs. And they
    wait for the end of a rebalance, which itself waits for the end of the poll before partitions
    are handed over: see `transport.Consumer._poll`.
    """

    # Left out of the last commit: the cluster does not have them any more.
    uncommitted: AbstractSet[TP] = frozenset()

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # what a transaction took back never happened
        # `AutoOffsetReset` is for topics that the group knows nothing of, see `starts`. Whatever a
        # partition's log has lost under its reader, what is still there is read.
        consumer._auto_offset_reset = "earliest"
        config = self.app.settings.kafka.consumer_config  # type: ignore[attr-defined]
        # What an assignment asks waits behind the first fetch.
        consumer._fetch_max_wait_ms = config.fetch_max_wait_ms
        self._damaged = Damaged()
        self._pace = AdaptiveFetch(config.fetch_max_wait_ms, config.fetch_linger_ms)
        return consumer

    # Faust's.
    async def getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109
        """What has been fetched, by partition."""
        polling = self._fetch_records(self._ensure_consumer(), active_partitions, timeout)
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(polling, self.thread_loop)
        )

    async def _fetch_records(
        # Faust's.
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,  # noqa: ARG002  # Faust's
    ) -> Any:
        if not self.consumer.flow_active:
            return {}
        if consumer._closed or consumer._fetcher._closed:
            raise ConsumerStoppedError
        try:
            # Records are taken without a pause behind the last wait: this limit loses none.
            async with asyncio.timeout(2 * POLL_S):
                taken = await take(
                    consumer._fetcher, active_partitions, timeout or 0, self._damaged
                )
                self._pace.apply(consumer._fetcher, came=bool(taken))
                return taken
        except TimeoutError:
            return {}

    def look_anew(self) -> None:
        """Have the client ask the cluster for its topics now: it does so by itself every five minutes."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._client.force_metadata_update)

    def rejoin(self) -> None:
        """Join the group anew: partitions are let go and assigned as in any rebalance."""
        self.thread_loop.call_soon_threadsafe(self._ensure_consumer()._coordinator.request_rejoin)

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Every partition of *topics*, as far as the client knows them."""
        consumer = self._ensure_consumer()
        return {
            TP(topic, number)
            for topic in topics
            for number in consumer.partitions_for_topic(topic) or ()
        }

    async def commits(self, partitions: Collection[TP]) -> dict[TP, int]:
        """What the group has committed of *partitions*; nothing is left out."""
        return {
            tp: at.offset
            for tp, at in (await self._committed(partitions)).items()
            if at.offset >= 0
        }

    async def commit_notes(self, partitions: Collection[TP]) -> dict[TP, CommitNote]:
        """What stands beside the commits of *partitions*; those without a commit are left out."""
        return {tp: note_of(at.metadata) for tp, at in (await self._committed(partitions)).items()}

    async def _committed(self, partitions: Collection[TP]) -> dict[TP, OffsetAndMetadata]:
        coordinator = self._ensure_consumer()._coordinator
        found = await self.call_thread(
            coordinator.fetch_committed_offsets, [TopicPartition(*tp) for tp in partitions]
        )
        return {TP(*tp): at for tp, at in found.items()}

    async def commit_first(self, offsets: Mapping[TP, int]) -> bool:
        """Commit for partitions of which the group has nothing, also those of other members.

        False when it fails.
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
        """Take the error that the coordinator keeps, which has it go on, and join the group anew."""

        def take() -> None:
            coordinator = self._ensure_consumer()._coordinator
            coordinator.request_rejoin()  # else a heartbeat task that has ended is not begun anew
            with suppress(KafkaError):
                coordinator.check_errors()

        self.thread_loop.call_soon_threadsafe(take)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Commit, or say that it did not work: the next interval tries again.

        Faust's own crashes the worker.
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
