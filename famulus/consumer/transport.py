"""Faust's Kafka transport, replaced so that the pipeline gets whole batches of a partition.

Only offsets of finished records are committed. Faust keeps group membership, assignment, the
recovery of its tables, the command line and the web server. Records of subscriptions never enter
Faust's own consumer path, for three reasons: it builds four futures per message, it commits past an
unfinished record (faust-streaming #606), and it acknowledges what failed to decode. Topics of plain
Faust agents and changelogs still use that path.

Everything here uses private API of faust-streaming 0.15.3, which is why that version is pinned.
"""

import asyncio
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol, cast

import structlog
from aiokafka import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from famulus.consumer.assignment import AssignedPartitions
from famulus.consumer.faust_producer import Producer
from famulus.consumer.fetcher import POLL_S, ConsumerThread, FetchedBatch
from famulus.consumer.hold_ups import HoldUpNotes
from famulus.consumer.seek_executor import COMMIT_AGAIN_S, COMMIT_TRIES, SeekExecutor
from famulus.consumer.session import GroupSession
from famulus.consumer.start_offsets import KnownPositions, find_start_offsets
from famulus.errors import OperatingError
from famulus.processing.offset_tracker import OnCommitAhead
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.pipeline import Pipeline
from famulus.state.identity import CommitNote
from famulus.state.manager import OwnedPartition, PartitionStateManager

log = structlog.get_logger()
# Length of a poll without data while a partition is busy, since it may need records any moment.
BUSY_POLL_S = 0.01


class Host(Protocol):
    """Attributes of the app that the transport needs beside Faust's own."""

    pipelines: Mapping[str, Pipeline]  # by source topic
    assigned: AssignedPartitions
    state_manager: PartitionStateManager
    seek_executor: SeekExecutor
    holdups: HoldUpNotes
    on_commit_ahead: OnCommitAhead
    drain_timeout_s: float


class Consumer(driver.Consumer):
    """Faust's consumer, which hands over whole fetches and commits only finished offsets."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.group_session = GroupSession()

    @property
    def _host(self) -> Any:  # Any: the app is both Faust's App and a Host
        return self.app

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing, because the watchdog detects stalls.

        Faust's own check fails while a position is being reset, and ends the worker.
        """

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self._stopped.is_set() or fetcher._stopped.is_set()):
                await self._fetch()
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            # Otherwise a stop in the middle of a rebalance would count as a crash.
            if not self.app.should_stop:
                raise
        except OperatingError as error:
            await self._host.fail(error)

    async def _fetch(self) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # waits on any event
            return
        assigned: AssignedPartitions = self._host.assigned
        paused = assigned.paused()
        busy = assigned.busy() - paused
        free = self._get_active_partitions() - busy - paused
        if free:
            await self._poll(free, BUSY_POLL_S if busy else POLL_S)
            await asyncio.sleep(0)
        else:
            await self.sleep(BUSY_POLL_S if busy else POLL_S)

    async def _poll(self, partitions: set[TP], wait_s: float) -> None:
        """Fetch records of *partitions* and hand them to their processors."""
        self.not_waiting_next_records.clear()
        try:
            fetched: Any = await self._getmany(active_partitions=partitions, timeout=wait_s)
        finally:
            self.not_waiting_next_records.set()
        if self.suspend_flow.is_set():
            # A rebalance waits for this poll. Every position is set again after it, so what was
            # fetched is dropped.
            return
        if not fetched:
            self._note_moved(partitions)
        taken: dict[TP, FetchedBatch] = {
            TP(partition.topic, partition.partition): packed
            for partition, packed in fetched.items()
        }
        ours = {tp for tp in taken if self._host.is_managed(tp.topic)}
        # Subscriptions first: `_deliver_singly` may wait, and after a rebalance meanwhile their
        # fetches would be outdated.
        processors = {tp: self._receive(tp, taken[tp]) for tp in ours}
        for tp, packed in taken.items():
            if tp not in self.assignment():  # revoked while something was delivered
                continue
            self.app.monitor.track_tp_end_offset(tp, self.highwater(tp))
            if tp not in ours:
                await self._deliver_singly(tp, packed.consumer_records())
            elif (processor := processors[tp]) is not None:
                for channel in cast(Any, self.app.topics)._tp_index.get(tp, ()):
                    await channel.queue.put(processor)

    def _note_moved(self, partitions: set[TP]) -> None:
        """Report the current positions to the assigned partitions.

        A log that has become empty brings no fetch that would report it.
        """
        for tp in partitions:
            if (state := self._state_of(tp)) is not None and state.has_valid_position:
                self._host.assigned.moved(tp, state.position)

    def _receive(self, tp: TP, packed: FetchedBatch) -> PartitionProcessor | None:
        processor: PartitionProcessor | None = self._host.assigned.receive(tp, packed)
        if processor is not None:
            self._read_offset[tp] = packed.next_offset - 1
        return processor

    async def seek(self, partition: TP, offset: int) -> None:
        """Continue reading at *offset* and discard fetched records that are not unpacked."""
        self._host.assigned.forget(partition)
        await super().seek(partition, offset)

    async def _deliver_singly(self, tp: TP, records: list[Any]) -> None:
        """Deliver records the way Faust does, for changelogs and topics of plain agents."""
        for record in records:
            read = self._read_offset[tp]
            if read is not None and record.offset < read:
                continue
            if read and record.offset - read > 1 and self.app.topics.acks_enabled_for(tp.topic):
                await self._add_gap(tp, read + 1, record.offset - 1)
            await self.callback(self._to_message(tp, record))
            self._read_offset[tp] = record.offset

    # Faust's commit timer, flush and sensors stay; the offset to commit is this package's. A failed
    # commit leaves the committed offset as it was. A commit under way never stands for the next
    # one, which has newer offsets.

    async def maybe_wait_for_commit_to_finish(self) -> bool:
        """Wait for a commit that is under way and return False.

        The next commit is then never skipped because of the one before.
        """
        while (under_way := self._commit_fut) is not None:
            await asyncio.wait([under_way])  # a cancelled caller must not cancel the commit
        return False

    async def _commit_offsets(
        self,
        offsets: Mapping[TP, int],
        start_new_transaction: bool = True,  # Faust's
    ) -> bool:
        before = {tp: self._committed_offset[tp] for tp in offsets}
        committed: bool = await super()._commit_offsets(offsets, start_new_transaction)
        left_out = cast(Any, self._thread).uncommitted if committed else before.keys()
        self._committed_offset.update(
            {tp: offset for tp, offset in before.items() if tp in left_out}
        )
        return committed

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        ours = (
            tp
            for tp in self._host.assigned.ours
            if topics is None or tp in topics or tp.topic in topics
        )
        yield from ours
        yield from super()._filter_tps_with_pending_acks(topics)

    def _new_offset(self, tp: TP) -> int | None:
        try:
            # *_host* is Any.
            return self._host.assigned.checkpointed_offset(tp)  # type: ignore[no-any-return]
        except KeyError:
            return super()._new_offset(tp)

    async def perform_seek(self) -> None:
        """Set every position explicitly and open the processors.

        aiokafka's own seek does nothing for a group without a commit, which can drop records that
        were fetched across the first rebalance. Faust resumes the partitions before it seeks, and
        the flow after. A poll in between would take records for which no processor is open, and
        they would never be read again. The flow is therefore stopped first.
        """
        self.stop_flow()
        await self.wait_for_stopped_flow()
        await self._carry_out_seeks()
        await super().perform_seek()
        self.renew_session()
        held = self._held()
        begins = await self._starts(held)
        back = {tp: begins.get(tp, self._read_offset[tp] or 0) for tp in self._back()}
        self._host.state_manager.anew.clear()
        await self._host.state_manager.adopt()
        for tp, offset in begins.items():
            await self.seek(tp, offset)
        self._host.holdups.tidy(
            {tp: begins.get(tp, self._committed_offset[tp]) or 0 for tp in held}
        )
        self._host.assigned.open(
            {
                tp: (
                    self._host.pipelines[tp.topic],
                    of,
                    begins.get(tp, self._committed_offset[tp]) or 0,
                )
                for tp, of in held.items()
                if not of.partition.is_abandoned
            },
            back,
        )
        self.heed_seeks()

    def _held(self) -> dict[TP, OwnedPartition]:
        return {
            tp: of for tp, of in self._host.state_manager.held.items() if tp in self.assignment()
        }

    async def _carry_out_seeks(self) -> None:
        """Execute the pending operator seeks, before the start offsets are found."""
        seek_executor: SeekExecutor = self._host.seek_executor
        held = self._held()
        if orders := await seek_executor.due(held):
            begins, ends = await self.earliest_offsets(*orders), await self.highwaters(*orders)
            spans = {tp: (begins[tp], ends[tp]) for tp in orders}
            await seek_executor.carry_out(orders, held, spans, cast(Any, self._thread).commit)

    async def look_at_topics(self) -> None:
        """Check whether the topics were recreated, and rejoin the group if one was.

        A recreated topic without state is then read from its beginning. Raises as
        `PartitionStateManager.look` does.
        """
        if anew := await self._host.state_manager.look():
            log.warning("topics were deleted and made anew", topics=sorted(anew))
            cast(Any, self._thread).rejoin()

    def heed_seeks(self) -> None:
        """Join the group again when an assigned partition has a pending seek.

        Seeks are executed during the assignment that follows.
        """
        if any(self._host.seek_executor.is_due(tp) for tp in self._host.assigned.processors):
            cast(Any, self._thread).rejoin()

    def _back(self) -> list[TP]:
        """Return the assigned partitions of retry and redrive topics."""
        back = (tp for tp in self.assignment() if tp.topic not in self._host.pipelines)
        return [tp for tp in back if self._host.is_managed(tp.topic)]

    async def _starts(self, held: Mapping[TP, OwnedPartition]) -> dict[TP, int]:
        """Return the start offsets that differ from the commit, see `start_offsets`.

        Raises as `find_start_offsets` does.
        """
        plain = (
            tp
            for tp in self.assignment()
            if not (self._host.is_managed(tp.topic) or self._is_changelog_tp(tp))
        )
        known = {
            tp: KnownPositions(
                None, self._committed_offset[tp], self._read_offset[tp], has_state=False
            )
            for tp in plain
        }
        state_manager: PartitionStateManager = self._host.state_manager
        notes = await cast(Any, self._thread).commit_notes(held)
        ends = await state_manager.epoch_ends()
        known |= {
            tp: KnownPositions(
                of.partition.processed,
                self._committed_offset[tp],
                self._read_offset[tp],
                of.partition.source_id,
                notes.get(tp, CommitNote()),
                of.checkpointer is not None,
                tp.topic in state_manager.anew,
                ends.get(tp),
            )
            for tp, of in held.items()
        }
        is_earliest = self.app.conf.consumer_auto_offset_reset == "earliest"
        found = await find_start_offsets(
            known, self, self._host.on_commit_ahead, is_earliest=is_earliest
        )
        if found.fresh:
            await self._commit_first(found.fresh)
        for tp, count in found.gone.items():
            if (pipeline := self._host.pipelines.get(tp.topic)) is not None:
                pipeline.counts.gone += count
        unread = [tp for tp in self._back() if self._read_offset[tp] is None]
        # Retry and redrive topics without a commit are read from their beginning.
        begins = await self.earliest_offsets(*unread)
        return found.begins | {tp: begins[tp] for tp in unread}

    async def _commit_first(self, offsets: Mapping[TP, int]) -> None:
        """Commit *offsets*, so that the group knows their topics and `latest` applies only once."""
        for _ in range(COMMIT_TRIES):
            if await cast(Any, self._thread).commit_first(offsets):
                return
            await asyncio.sleep(COMMIT_AGAIN_S)

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Return every partition of *topics*, including those of other members."""
        return await cast(Any, self._thread).partitions(topics)  # type: ignore[no-any-return]

    async def commits(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """Return the group's committed offsets of *partitions*, without those that have none."""
        return await cast(Any, self._thread).commits(partitions)  # type: ignore[no-any-return]

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Finish and commit the work in flight before Faust forgets the partitions."""
        self.stop_flow()
        # A poll across a rebalance would take records of partitions that are not assigned yet.
        await self.wait_for_stopped_flow()
        await self.drain()
        await super().on_partitions_revoked(revoked)
        self._host.assigned.open({})
        await self._host.state_manager.release()

    async def wait_empty(self) -> None:
        """Wait until plain agents have finished, for `Worker.DrainTimeoutS` seconds at most.

        Faust hands the reply to an `ask` to two channels, one of which has no reader. Such a reply
        is never acknowledged, and waiting for it would not end, so it is acknowledged here.
        """
        replies = self.app.conf.reply_to
        for message in [each for each in self._unacked_messages if each.topic == replies]:
            self.ack(message)
        try:
            async with asyncio.timeout(self._host.drain_timeout_s):
                await super().wait_empty()
        except TimeoutError:
            log.warning(
                "plain agents did not end in time; what they had in hand will be read again",
                limit_s=self._host.drain_timeout_s,
                records=len(self._unacked_messages),
            )

    async def drain(self) -> bool:
        """Wait for the work in flight and commit it.

        Returns False when it did not end within the drain timeout, or when the group has given the
        partitions to other workers.
        """
        assigned: AssignedPartitions = self._host.assigned
        if not assigned.processors:
            return True
        if not self.is_member():
            log.warning("the group gave our partitions to others; what is in hand is left to them")
            assigned.abandon()
            return False
        drained = await assigned.close(self._host.drain_timeout_s)
        if not drained:
            log.warning(
                "work in hand did not end in time; it will be read again",
                limit_s=self._host.drain_timeout_s,
            )
        await self.commit()
        return drained

    def look_anew(self) -> None:
        """Refresh the client's topic metadata now, so that the group assigns new partitions."""
        cast(Any, self._thread).look_anew()

    def unfetched(self, tp: TP) -> int:
        """Return how many records of a partition can be fetched and are not.

        The number is as of the last fetch. Records behind an open transaction cannot be fetched.
        """
        state = self._fetch_state(tp)
        return 0 if state is None else int(max(state.lso - state.position, 0))

    def open_since(self, tp: TP) -> int | None:
        """Return the offset of the open transaction at which reading is blocked, else None.

        All records before it were fetched.
        """
        state = self._fetch_state(tp)
        is_behind = (
            state is not None and 0 <= state.lso < state.highwater and state.position >= state.lso
        )
        return state.lso if is_behind else None

    def _fetch_state(self, tp: TP) -> Any:  # Any: aiokafka is untyped
        """Return aiokafka's state of a partition.

        Returns None before a fetch and without a valid position.
        """
        state = self._state_of(tp)
        return None if state is None or state.lso is None or not state.has_valid_position else state

    def _state_of(self, tp: TP) -> Any:
        """Return aiokafka's state of a partition, None when it is not assigned."""
        subscription = cast(Any, self._thread)._ensure_consumer()._subscription.subscription
        assignment = subscription.assignment if subscription is not None else None
        return assignment.state_value(TopicPartition(*tp)) if assignment is not None else None

    @property
    def coordinator(self) -> Any:
        """Return aiokafka's group coordinator, None before the thread has one."""
        consumer = cast(Any, self._thread)._consumer
        return consumer._coordinator if consumer is not None else None

    def join_again(self) -> None:
        """Clear the error that the coordinator keeps and join the group again."""
        cast(Any, self._thread).join_again()

    def renew_session(self) -> None:
        """Count joining the group as a heartbeat."""
        self.group_session.renew(cast(Any, self._thread)._consumer._coordinator)

    def has_place(self) -> bool:
        """Return whether the worker is a member of the group now.

        A heartbeat was answered within the session timeout, and the worker has not left the group.
        """
        return self.is_member() and self.coordinator.generation > 0

    def is_member(self) -> bool:
        """Return whether a heartbeat was answered within the session timeout, see `session`."""
        return self.group_session.is_held(self.app.conf.broker_session_timeout)


class Transport(driver.Transport):
    """Faust's Kafka transport with this package's consumer and producer."""

    Consumer = Consumer
    Producer = Producer
