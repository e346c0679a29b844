"""What of Faust's inside is replaced: whole partition batches reach the pipeline, only finished offsets go out.

Faust keeps group membership, assignment, tables' recovery, the command line and the web server. Its own consumer path
builds four futures per message, commits past an unfinished record (faust-streaming #606) and acknowledges what failed
to decode, so records of subscriptions never enter it. Topics that plain Faust agents and changelogs read still do.
Everything here is private API of faust-streaming 0.15.3, which is why that version is pinned.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, cast

import faust
import structlog
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from app.engine.offsets import PartitionOffsets
from app.engine.pipeline import Batch, Pipeline
from app.errors import InvariantError

log = structlog.get_logger()

CHUNK_RECORDS = (
    500  # carried and settled together: large enough to share one acknowledgement, small enough to stop soon
)


class Host(Protocol):
    """What the transport needs of our app beside Faust's own."""

    pipelines: Mapping[str, Pipeline]  # by topic
    intake: "Intake"
    fetch_max_wait_ms: int
    queue_records: int
    drain_timeout_s: float


class Fetched:
    """One partition's share of a fetch, on its way to the agent."""

    __slots__ = ("offsets", "records", "tp")

    def __init__(self, tp: TP, records: list[Any], offsets: PartitionOffsets) -> None:
        self.tp, self.records, self.offsets = tp, records, offsets


class Intake:
    """The ledger of this worker's assigned partitions: their offsets, and whether work may go on."""

    def __init__(self) -> None:
        self.offsets: dict[TP, PartitionOffsets] = {}
        self.room = asyncio.Event()  # set when work in hand ended, so that a full partition may have room again
        self._closing = False
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def open(self, assigned: Iterable[TP]) -> None:
        """Start new ledgers: whatever is still in hand of an earlier assignment finishes into the old ones, unseen."""
        self.offsets = {tp: PartitionOffsets() for tp in assigned}
        self._closing = False

    def owns(self, fetched: Fetched) -> bool:
        """Whether *fetched* belongs to the present assignment, and that may still be worked on."""
        return not self._closing and self.offsets.get(fetched.tp) is fetched.offsets

    def is_full(self, tp: TP, limit_records: int) -> bool:
        """Whether the partition holds its share of memory and must wait."""
        offsets = self.offsets.get(tp)
        return offsets is not None and offsets.in_flight >= limit_records

    async def close(self, timeout_s: float) -> bool:
        """Take no more, and wait for the work in hand. False when it did not end in time."""
        self._closing = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> None:
        self._busy += 1
        self._quiet.clear()

    def __exit__(self, *_: object) -> None:
        self._busy -= 1
        self.room.set()
        if not self._busy:
            self._quiet.set()


class Deliveries(faust.Stream[Any]):
    """What a subscription's agent is given: `await deliveries.carry()`. Any other agent gets an ordinary stream."""

    async def carry(self) -> None:
        """Carry this subscription's events until the worker stops. Ends the process when effects cannot be settled."""
        host: Host = self.app  # type: ignore[assignment]  # our app, see bootstrap
        channel: Any = self.channel  # Any: Faust's own type is its iterator side only
        pipeline = host.pipelines[channel.get_topic_name()]
        while True:
            try:
                fetched = await channel.queue.get()
            except StopAsyncIteration:  # Faust's way to say that the worker stops
                return
            for start in range(0, len(fetched.records), CHUNK_RECORDS):
                if not host.intake.owns(fetched):
                    break
                batch = Batch(fetched.records[start : start + CHUNK_RECORDS], fetched.offsets)
                with host.intake:
                    if not await self._carried(pipeline, batch):
                        return

    async def _carried(self, pipeline: Pipeline, batch: Batch) -> bool:
        """Carry *batch*. False when that failed, which ends the process: nobody knows what Kafka has of it."""
        try:
            await pipeline.carry(batch)
        except Exception as error:
            first = batch.records[0]
            place = f"{first.topic}-{first.partition} from offset {first.offset}"
            log.exception("cannot settle", place=place)
            await self.app.crash(InvariantError(f"{place} could not be settled: {error!r}; it will be read again"))
            return False
        return True

    def __aiter__(self) -> Any:
        channel: Any = self.channel
        if isinstance(channel, faust.Topic) and channel.get_topic_name() in cast(Any, self.app).pipelines:
            raise TypeError("events of a subscription go to handlers: `await deliveries.carry()`, no `async for`")
        return super().__aiter__()


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust hard-codes a fetch wait of 1500 ms, which stalls a partition next to a drained one."""

    def _create_worker_consumer(self, transport: driver.Transport) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.app.fetch_max_wait_ms  # type: ignore[attr-defined]
        return consumer


class Consumer(driver.Consumer):
    """Hands whole partition batches over, and commits what their ledgers say is finished."""

    @property
    def _host(self) -> Any:  # Any: our app is both Faust's App and a Host
        return self.app

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                await self._fetch()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise

    async def _fetch(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # waits on any event
            return
        intake: Intake = self._host.intake
        generation = self.app.consumer_generation_id
        assigned = self._get_active_partitions()
        active = {tp for tp in assigned if not intake.is_full(tp, self._host.queue_records)}
        if not assigned:
            await self.sleep(0.05)
            return
        if not active:
            intake.room.clear()
            await self.wait_first(intake.room.wait(), self.suspend_flow.wait(), timeout=1.0)
            return
        fetched = await self._getmany(active_partitions=active, timeout=1.0)
        if not self.flow_active or generation != self.app.consumer_generation_id:
            return  # fetched across a rebalance: perform_seek has set, or will set, every position anew
        for partition, records in fetched.items():
            tp = TP(partition.topic, partition.partition)
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if tp.topic in self._host.pipelines:
                await self._hand_over(tp, records)
            else:
                await self._deliver_singly(tp, records)
        await asyncio.sleep(0)

    async def _hand_over(self, tp: TP, records: list[Any]) -> None:
        offsets = self._host.intake.offsets.get(tp)
        if offsets is None:
            return
        offsets.received(record.offset for record in records)
        self._read_offset[tp] = records[-1].offset
        for channel in cast(Any, self.app.topics)._tp_index.get(tp, ()):
            await channel.queue.put(Fetched(tp, records, offsets))

    async def _deliver_singly(self, tp: TP, records: list[Any]) -> None:
        """Faust's own way, for changelogs and for topics that plain agents read."""
        for record in records:
            read = self._read_offset[tp]
            if read is not None and record.offset < read:
                continue
            if read and record.offset - read > 1 and self.app.topics.acks_enabled_for(tp.topic):
                await self._add_gap(tp, read + 1, record.offset - 1)
            await self.callback(self._to_message(tp, record))
            self._read_offset[tp] = record.offset

    # Faust's commit timer, flush and sensors stay; only "up to where" is ours.

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        ours = (tp for tp in self._host.intake.offsets if topics is None or tp in topics or tp.topic in topics)
        yield from ours
        yield from super()._filter_tps_with_pending_acks(topics)

    def _new_offset(self, tp: TP) -> int | None:
        offsets = self._host.intake.offsets.get(tp)
        return offsets.next_offset if offsets is not None else super()._new_offset(tp)

    async def perform_seek(self) -> None:
        """Set every position explicitly.

        aiokafka's own seek does nothing for a group without a commit, which can drop records that were fetched across
        the first rebalance.
        """
        await super().perform_seek()
        ours = {tp for tp in self.assignment() if tp.topic in self._host.pipelines}
        self._host.intake.open(ours)
        unknown = [tp for tp in ours if self._read_offset[tp] is None]
        if unknown:
            earliest = self.app.conf.consumer_auto_offset_reset == "earliest"
            start = await (self.earliest_offsets(*unknown) if earliest else self.highwaters(*unknown))
            for tp in unknown:
                await self.seek(tp, start[tp])

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish the work in hand and commit it before Faust forgets the partitions."""
        self.stop_flow()
        await self.drain()
        await super().on_partitions_revoked(revoked)
        self._host.intake.open(())

    async def drain(self) -> bool:
        """Let the work in hand end and commit it. False when it did not end within the drain timeout."""
        drained: bool = await self._host.intake.close(self._host.drain_timeout_s)
        if not drained:
            log.warning("work in hand did not end in time; it will be read again", limit_s=self._host.drain_timeout_s)
        await self.commit()
        return drained


class Transport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = Consumer
