"""What of Faust's inside is replaced: whole partition batches reach the pipeline, only finished offsets go out.

Faust keeps group membership, assignment, tables' recovery, the command line and the web server. Its own consumer path
builds four futures per message, commits past an unfinished record (faust-streaming #606) and acknowledges what failed
to decode, so records of subscriptions never enter it. Topics that plain Faust agents and changelogs read still do.
Everything here is private API of faust-streaming 0.15.3, which is why that version is pinned.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast

import faust
import structlog
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from app.engine.flow import Flow
from app.engine.offsets import OnCommitAhead, StartError, start_position
from app.engine.pipeline import Pipeline
from app.errors import ConfigError, InvariantError, OperatingError
from app.worker.fetch import POLL_S, ConsumerThread, Packed
from app.worker.holdings import Held, Holdings
from app.worker.intake import Intake
from app.worker.seeking import Seeking

log = structlog.get_logger()
BUSY_POLL_S = 0.01  # a poll without data while a partition has enough to do, which may want more any moment


class Host(Protocol):
    """What the transport needs of our app beside Faust's own."""

    pipelines: Mapping[str, Pipeline]  # by source topic
    intake: Intake
    holdings: Holdings
    seeking: Seeking
    on_commit_ahead: OnCommitAhead
    drain_timeout_s: float


class Deliveries(faust.Stream[Any]):
    """What a subscription's agent is given: `await deliveries.carry()`. Any other agent gets an ordinary stream."""

    async def carry(self) -> None:
        """Have this subscription's events carried until the worker stops."""
        intake: Intake = cast(Any, self.app).intake  # our app is both Faust's App and a Host
        queue = cast(Any, self.channel).queue
        while True:
            try:
                flow: Flow = await queue.get()
            except StopAsyncIteration:  # Faust's way to say that the worker stops
                return
            intake.crew.wake(flow)

    def __aiter__(self) -> Any:
        channel: Any = self.channel  # Any: Faust's own type is its iterator side only
        if isinstance(channel, faust.Topic) and any(map(cast(Any, self.app).is_carried, channel.topics)):
            raise TypeError("events of a subscription go to handlers: `await deliveries.carry()`, no `async for`")
        return super().__aiter__()


class Consumer(driver.Consumer):
    """Hands whole partition batches over, and commits what their ledgers say is finished."""

    _heartbeat_at = 0.0  # by the monotonic clock
    _coordinator: Any = None  # aiokafka's, whose heartbeats we watch

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
        except asyncio.CancelledError:
            if not self.app.should_stop:  # else a stop in the middle of a rebalance would count as a crash
                raise
        except OperatingError as error:
            await self._host.fail(error)

    async def _fetch(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # waits on any event
            return
        self._check_coordination()
        intake: Intake = self._host.intake
        paused = intake.paused()
        busy = intake.busy() - paused
        free = self._get_active_partitions() - busy - paused
        if free:
            await self._poll(free, BUSY_POLL_S if busy else POLL_S)
            await asyncio.sleep(0)
        elif paused and not busy:
            cast(Any, self._thread).stay()
            await self.sleep(POLL_S)
        else:
            await self.sleep(BUSY_POLL_S)

    def _check_coordination(self) -> None:
        """Raise InvariantError when nobody speaks with the group any more: the worker would stay up for nothing."""
        task = getattr(self._coordinator, "_coordination_task", None)
        if task is not None and task.done() and not (self.should_stop or self.app.should_stop):
            raise InvariantError("the task that speaks with the consumer group has ended; see the log above for why")

    async def _poll(self, partitions: set[TP], wait_s: float) -> None:
        """Hand over what was fetched."""
        self.not_waiting_next_records.clear()
        try:
            fetched: Any = await self._getmany(active_partitions=partitions, timeout=wait_s)
        finally:
            self.not_waiting_next_records.set()
        if self.suspend_flow.is_set():
            return  # a rebalance waits for us to let go; when it is over, every position is set anew
        taken: dict[TP, Packed] = {
            TP(partition.topic, partition.partition): packed for partition, packed in fetched.items()
        }
        ours = {tp for tp in taken if self._host.is_carried(tp.topic)}
        # Ours first: deliveries may wait, and a rebalance meanwhile would make what is received after it outdated.
        flows = {tp: self._receive(tp, taken[tp]) for tp in ours}
        for tp, packed in taken.items():
            if tp not in self.assignment():  # revoked while something was delivered
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if tp not in ours:
                await self._deliver_singly(tp, packed.consumer_records())
            elif (flow := flows[tp]) is not None:
                for channel in cast(Any, self.app.topics)._tp_index.get(tp, ()):
                    await channel.queue.put(flow)

    def _receive(self, tp: TP, packed: Packed) -> Flow | None:
        flow: Flow | None = self._host.intake.receive(tp, packed)
        if flow is not None:
            self._read_offset[tp] = packed.next_offset - 1
        return flow

    async def seek(self, partition: TP, offset: int) -> None:
        """Read on from *offset*: what was fetched before and not unpacked is of no use."""
        self._host.intake.forget(partition)
        await super().seek(partition, offset)

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

    # Faust's commit timer, flush and sensors stay; only "up to where" is ours, and that a failed commit is none, nor is
    # one that began before what is to be committed had ended.

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Wait for a commit that is under way, which never stands for the one that is asked for now."""
        while await super().maybe_wait_for_commit_to_finish():
            pass
        return False

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: FBT001, FBT002  # Faust's
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        if not committed:
            self._committed_offset.update(before)
        return committed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        ours = (tp for tp in self._host.intake.ours if topics is None or tp in topics or tp.topic in topics)
        yield from ours
        yield from super()._filter_tps_with_pending_acks(topics)

    def _new_offset(self, tp: TP) -> int | None:
        try:
            return self._host.intake.settled_offset(tp)  # type: ignore[no-any-return]  # the host is Any
        except KeyError:
            return super()._new_offset(tp)

    async def perform_seek(self) -> None:
        """Set every position explicitly.

        aiokafka's own seek does nothing for a group without a commit, which can drop records that were fetched across
        the first rebalance. Faust resumes the partitions before it seeks, and the flow after: a poll in between would
        take records that no flow is open for, and nobody would read them again.
        """
        self.stop_flow()
        await self.wait_for_stopped_flow()
        await self._carry_out_seeks()
        await super().perform_seek()
        self.renew_lease()
        held = self._held()
        starts = {**await self._starts(held), **await self._starts_back()}
        for tp, offset in starts.items():
            await self.seek(tp, offset)
        self._host.intake.open({
            tp: (self._host.pipelines[tp.topic], of, starts.get(tp, self._committed_offset[tp]) or 0)
            for tp, of in held.items() if not of.partition.is_abandoned
        })  # fmt: skip
        self.heed_seeks()

    def _held(self) -> dict[TP, Held]:
        return {tp: of for tp, of in self._host.holdings.held.items() if tp in self.assignment()}

    async def _carry_out_seeks(self) -> None:
        """Move what an operator wants moved, before anybody asks where reading begins."""
        seeking: Seeking = self._host.seeking
        held = self._held()
        if orders := await seeking.due(held):
            begins, ends = await self.earliest_offsets(*orders), await self.highwaters(*orders)
            spans = {tp: (begins[tp], ends[tp]) for tp in orders}
            await seeking.carry_out(orders, held, spans, cast(Any, self._thread).commit)

    def heed_seeks(self) -> None:
        """Where a partition of ours is to go on elsewhere, join the group anew: that is when it does."""
        if any(self._host.seeking.is_due(tp) for tp in self._host.intake.flows):
            cast(Any, self._thread).rejoin()

    async def _starts_back(self) -> dict[TP, int]:
        """Where reading begins of topics through which records come back: all of them, if nobody says otherwise."""
        back = (tp for tp in self.assignment() if tp.topic not in self._host.pipelines)
        unknown = [tp for tp in back if self._host.is_carried(tp.topic) and self._read_offset[tp] is None]
        begins = await self.earliest_offsets(*unknown)
        return {tp: begins[tp] for tp in unknown}

    async def _starts(self, held: Mapping[TP, Held]) -> dict[TP, int]:
        """Where reading begins, where that is not the committed offset: the state is the truth.

        Raises ConfigError when a partition's state does not belong to what the topic holds now.
        """
        states = {tp: of.partition.processed for tp, of in held.items() if of.partition.processed is not None}
        unknown = {tp for tp in held if self._read_offset[tp] is None}
        earliest = self.app.conf.consumer_auto_offset_reset == "earliest"
        begins = await self.earliest_offsets(*states, *(unknown if earliest else ()))
        ends = await self.highwaters(*states, *(() if earliest else unknown))
        starts = {tp: begins[tp] if earliest else ends[tp] for tp in unknown}
        starts |= {tp: 0 for tp in held if self._read_offset[tp] == 0}  # where aiokafka's own seek does nothing either
        for tp, processed in states.items():
            committed = self._committed_offset[tp]
            try:
                start = start_position(
                    processed.next_offset, committed, begins[tp], ends[tp], self._host.on_commit_ahead
                )
            except StartError as error:
                raise ConfigError(
                    f"{tp.topic}-{tp.partition}: {error}; "
                    f"`faust -A app state replay --topic {tp.topic}` makes the state anew"
                ) from None
            if start.disagreement:
                log.warning(start.disagreement, topic=tp.topic, partition=tp.partition, goes_on_at=start.offset)
            starts[tp] = start.offset
        return starts

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish the work in hand and commit it before Faust forgets the partitions."""
        self.stop_flow()
        await self.wait_for_stopped_flow()  # a poll across a rebalance would take records that nobody may have yet
        await self.drain()
        await super().on_partitions_revoked(revoked)
        self._host.intake.open({})
        await self._host.holdings.release()

    async def drain(self) -> bool:
        """Let the work in hand end and commit it. False when it did not end within the drain timeout."""
        intake: Intake = self._host.intake
        if not intake.flows:
            return True
        if not self.is_member():
            log.warning("the group gave our partitions to others; what is in hand is left to them")
            intake.abandon()
            return False
        drained = await intake.close(self._host.drain_timeout_s)
        if not drained:
            log.warning("work in hand did not end in time; it will be read again", limit_s=self._host.drain_timeout_s)
        await self.commit()
        return drained

    def is_member(self) -> bool:
        """Whether the group still counts on us, as far as this process can tell: a heartbeat was answered in time.

        A worker that was frozen for longer than its session is asked this before it writes anything.
        """
        return time.monotonic() - self._heartbeat_at < self.app.conf.broker_session_timeout

    def renew_lease(self) -> None:
        """Count joining as a heartbeat; from then on the coordinator's own heartbeats do."""
        self._heartbeat_at = time.monotonic()
        coordinator = cast(Any, self._thread)._consumer._coordinator
        if coordinator is self._coordinator:
            return
        self._coordinator, beat = coordinator, coordinator._do_heartbeat

        async def noted() -> bool:
            asked_at = time.monotonic()
            answered: bool = await beat()
            if answered:
                self._heartbeat_at = asked_at
            return answered

        coordinator._do_heartbeat = noted


class Transport(driver.Transport):
    """Faust's Kafka transport with our consumer."""

    Consumer = Consumer
