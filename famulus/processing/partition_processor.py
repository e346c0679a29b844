"""Processing of one assigned partition: fetches, lanes, checkpoints and offsets.

A processor lives for one assignment. Events of an earlier assignment that are still in flight end
in the old processor, without effect.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from faust.types import TP
from msgspec.structs import replace

from famulus.errors import UnreadableError
from famulus.observability.hot_keys import KeyWatch
from famulus.processing.checkpoint_loop import CheckpointLoop, LingerPolicy, WorkerCallbacks
from famulus.processing.deferral import Defer
from famulus.processing.deferred_events import DeferredEvents, leave
from famulus.processing.in_flight import InFlight
from famulus.processing.key_lanes import Lanes
from famulus.processing.pipeline import Pipeline, WorkItem
from famulus.processing.redelivery import RedeliveryTopics
from famulus.processing.timing import Timing
from famulus.serialization.records import ConsumerRecord, Outcome
from famulus.state.changelog import SourcePosition
from famulus.state.checkpointer import Checkpointer
from famulus.state.partition_state import PartitionState

log = structlog.get_logger()
# One that is being unpacked and one behind it, so that no partition runs dry between two polls.
FETCHES = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of what one partition may hold and process at once."""

    lanes: int
    records: int
    bytes: int
    chunk: int  # records that are unpacked, and whose marks are looked up, at once
    linger_s: float = 0.0  # a checkpoint may stay open so long while there is more to start
    linger_records: int = 1_000  # and is written early when it has so many events


class Packed(Protocol):
    """A fetch of one partition, with records still packed, see `consumer.fetcher`."""

    next_offset: int
    leader_epoch: int

    def records(self, limit: int) -> Iterator[Sequence[ConsumerRecord]]:
        """Return an iterator over the records, *limit* at a time."""


class PartitionProcessor:
    """The records of one partition, from the fetch to the finished offset.

    *state* is the state of the partition, and *checkpointer* makes it durable; it is None for a
    subscription without state. *on_room* tells the task pool that there may be a record to start.
    *begin* is the offset where reading begins.
    """

    def __init__(
        self,
        tp: TP,
        pipeline: Pipeline,
        state: PartitionState,
        *,
        checkpointer: Checkpointer | None,
        limits: Limits,
        ties: WorkerCallbacks,
        on_room: Callable[["PartitionProcessor"], None],
        begin: int = 0,
    ) -> None:
        self.tp = tp
        self.begin = begin
        self.pipeline = pipeline
        self.state = state
        self.lanes: Lanes[WorkItem] = Lanes(limits.lanes)
        self.is_listed = False  # set by the task pool alone
        # Offsets of handled events, finished before any task outside of the pool runs.
        self.done: list[int] = []
        self.is_closing = False
        self._limits = limits
        self._ties, self._on_room = ties, on_room
        self.position = 0  # offset where the next fetch is expected to begin, or a later one
        # Each with the offset where the next one begins.
        self._fetches: deque[tuple[Iterator[Sequence[ConsumerRecord]], int]] = deque()
        self._quiet = asyncio.Event()
        processed = replace(
            state.processed or SourcePosition(0), home=state.home, source_id=state.source_id
        )
        self.in_flight = InFlight(processed, limits.records, limits.bytes, begin)
        self.offsets = self.in_flight.offsets
        self._resting = DeferredEvents(self.lanes, lambda: on_room(self))
        waits_ms = {
            TP(topic, tp.partition): pipeline.redelivery_wait_ms(topic)
            for topic in pipeline.redelivery_topics
        }
        self.backs = RedeliveryTopics(waits_ms, limits.records, lambda: on_room(self))
        self.keys = KeyWatch()
        self.timing = Timing(pipeline, self.keys)
        linger = LingerPolicy(
            limits.linger_s, limits.linger_records, lambda: self.has_more and not self.is_closing
        )
        self.checkpoint_loop = CheckpointLoop(
            tp,
            pipeline,
            state,
            checkpointer=checkpointer,
            in_flight=self.in_flight,
            linger=linger,
            ties=ties,
            on_settled=self._check_room,
            on_end=self._check_quiet,
        )
        self.has_state = checkpointer is not None  # whether the subscription has state
        self.halted = ""  # the reason why nothing more is started, as text
        self._is_barred = False  # nothing is started at all, not even redeliveries
        self.paused = ""  # the operator and the reason, as text

    @property
    def checkpointed_offset(self) -> int | None:
        """Return the offset that may be committed: everything below it is settled.

        None before any may be committed.
        """
        return self.checkpoint_loop.offset if self.has_state else self.offsets.next_offset

    @property
    def blocked(self) -> str:
        """Return why nothing can be settled, as text; empty if it can."""
        return self.checkpoint_loop.unsent or self.unwritten

    @property
    def unwritten(self) -> str:
        """Return why the disk refuses the effects of events, as text; empty if it does not."""
        return self.checkpoint_loop.unwritten

    def behind(self, log_end: int) -> int:
        """Return how many offsets below *log_end*, one past the newest record, are not settled.

        Holes in the log count. When everything received is settled, offsets that follow it and were
        read (transaction markers) do not count.
        """
        settled = max(self.begin, self.checkpointed_offset or 0)
        is_idle = not (self.offsets.in_flight or self._fetches or self.checkpoint_loop.task)
        return max(log_end - (max(settled, self.position) if is_idle else settled), 0)

    def renewed(self, begin: int) -> "PartitionProcessor":
        """Return a new processor for the same partition of a subscription without state.

        Reading begins at the offset *begin*.
        """
        state = PartitionState(self.tp.partition, None, self.state.group_bytes, self.tp.topic)
        return PartitionProcessor(
            self.tp,
            self.pipeline,
            state,
            checkpointer=None,
            limits=self._limits,
            ties=self._ties,
            on_room=self._on_room,
            begin=begin,
        )

    # Receiving.

    def receive(self, packed: Packed) -> None:
        """Add a fetch, to be unpacked when its turn comes.

        Records take less memory packed, and are still in the CPU's cache if handled right after
        unpacking.
        """
        if not self.is_closing:
            self._fetches.append((packed.records(self._limits.chunk), packed.next_offset))
            self.position = packed.next_offset
            self.in_flight.leader_epoch = max(self.in_flight.leader_epoch, packed.leader_epoch)

    def forget(self) -> None:
        """Discard the fetches that are not unpacked."""
        self._fetches.clear()
        self.position = self.offsets.newest + 1

    def receive_redelivery(self, tp: TP, packed: Packed) -> None:
        """Add a fetch of the redelivery topic *tp*."""
        if not self.is_closing:
            self.backs.receive(tp, packed.records(self._limits.chunk))

    def refill(self) -> bool:
        """Unpack some records for the lanes, and return whether there were any.

        Returns False when nothing more may start now, or when the next records cannot be read,
        which halts the partition.
        """
        self.turn_ended()  # which may let more records start
        try:
            return not (self.is_closing or self._is_barred) and self._refill()
        except UnreadableError as error:
            if not self.halted:
                self._halt(f"{error}{self._cure(error)}")
            return False

    def _cure(self, error: UnreadableError) -> str:
        """Return how to skip the records of *error*, empty if that is not known."""
        if not error.topic:
            return ""
        topic, partition = error.topic, self.tp.partition
        to = error.next_offset if error.next_offset is not None else "OFFSET"
        stays = "; nothing more of the partition is started. To skip them: "
        if topic == self.tp.topic:
            return f"{stays}`faust -A app seek {topic} --partition {partition} --to-offset {to}`"
        return (
            f"{stays}stop the workers, and set the group's offset of {topic}, partition "
            f"{partition}, to {to}"
        )

    def _refill(self) -> bool:
        # Also when halted because of too many dead letters: drops of them arrive here.
        if (
            self.backs.is_due
            and (self.halted or not self.lanes.is_full)
            and self._refill_redeliveries()
        ):
            return True
        while self._fetches and not (self.lanes.is_full or self.in_flight.is_full):
            fetched, next_offset = self._fetches[0]
            records = next(fetched, None)
            if records is not None:
                self._receive(records)
                return True
            self._fetches.popleft()
            self._passed(next_offset)
        return False

    def _passed(self, position: int) -> None:
        """Note that all of the log below *position* is unpacked.

        When nothing is in flight, the new position is settled without a record.
        """
        if self.in_flight.passed(position) and self.has_state:
            self.state.filling.has_passed = True
            self.checkpoint_loop.start()

    def _receive(self, records: Sequence[ConsumerRecord]) -> None:
        now_ms = self._ties.now_ms()
        left, stream_ms = self.in_flight.received(records, now_ms)
        self.keys.note(left, now_ms)
        self.pipeline.counts.received += len(left)
        self.pipeline.counts.note_in(self.tp.partition, len(records), self.in_flight.newest_bytes)
        self.lanes.add(self.pipeline.works_of(left, self.state, stream_ms), len(left))

    def _refill_redeliveries(self) -> bool:
        """Start the redeliveries that are due, and return whether there were any."""
        works: list[WorkItem] = []
        now_ms = self._ties.now_ms()
        for returned, finished, place in self.backs.take(now_ms, self._limits.chunk):
            if returned.action == "drop":
                self.pipeline.drop(returned, self.state)
                self.state.filling.returned.append((finished, place, "ignored"))
            else:
                # Stream time had reached it, even if nothing was read in this assignment.
                stream_ms = max(self.in_flight.stream_ms, min(returned.timestamp, now_ms))
                works.append(self.pipeline.redelivery_work(returned, finished, place, stream_ms))
        self.pipeline.counts.received += len(works)
        self.checkpoint_loop.start()
        self.lanes.add(works, len(works))
        return bool(works)

    @property
    def has_more(self) -> bool:
        """Return whether there are records that have not started and may start later."""
        return bool(self.lanes.waiting or self._fetches or self.backs.is_due)

    @property
    def is_busy(self) -> bool:
        """Return whether the partition needs no further fetch now."""
        return len(self._fetches) >= FETCHES or self.in_flight.is_full

    # Processing.

    def ended(self, work: WorkItem, outcome: Outcome) -> None:
        """Note the outcome of a record.

        Its offset is finished with the checkpoint that has its effects, or at once if it has none.
        """
        group, past = self.state.filling, work[2]
        if past is not None and past.finished is not None:
            group.returned.append((past.finished, past.place, outcome))
        elif self.has_state or group.outbox:
            group.ended(work[1].offset, outcome)
        else:
            self.pipeline.note(outcome)
            self.offsets.finished(work[1].offset)

    def turn_ended(self) -> None:
        """Finish the records that the task pool has processed since the last call.

        Records without effects are finished at once; the checkpoint loop makes the others durable.
        """
        if self.done:
            self.pipeline.note("handled", len(self.done))
            self.offsets.finished_all(self.done)
            self.done.clear()
        self.checkpoint_loop.start()

    def choose_timed(self, begun: int) -> tuple[int, int, int]:
        """Begin a stretch with event number *begun*, and choose its events to time.

        Returns *begun*, the number of the first event to time, and the step to further ones.
        """
        first, apart = self.timing.choose(self.lanes.waiting, has_more=bool(self._fetches))
        return begun, begun + first, apart

    def rest(self, work: WorkItem, rest: Defer, *, is_held: bool) -> None:
        """Defer the event of *work*, which was started last or is held."""
        self.lanes.rest(work[0], is_held=is_held)
        self.turn_ended()
        if self.is_closing:
            leave(rest.past)
            self._check_quiet()
            return
        self._resting.add(work, rest)
        if rest.halts:
            self._halt(rest.halts)

    def bar(self, why: str) -> None:
        """Start nothing at all until the partition is assigned again; *why* is the reason."""
        self._is_barred = True
        self._halt(why)

    def _halt(self, why: str) -> None:
        self.halted = why
        self.lanes.stop()
        log.error(why, topic=self.tp.topic, partition=self.tp.partition)

    def pause(self, why: str) -> None:
        """Start nothing more while *why*, the reason as text, is not empty.

        Events in flight are settled. An empty *why* resumes the partition.
        """
        was_paused, self.paused = bool(self.paused), why
        if why:
            self.lanes.stop()
        elif was_paused and not self.halted:
            self.lanes.go_on()
            self._on_room(self)

    def widen(self, lanes: int) -> None:
        """Process at most *lanes* records at once, from the next one on."""
        if self.lanes.resize(lanes):
            self._on_room(self)

    def finish(self, lane: Hashable) -> None:
        """Release *lane*: the record that it was held for has ended."""
        self.lanes.finish(lane)
        if self.is_closing:
            self.turn_ended()  # else the partition would look as if nothing were left to write
            self._check_quiet()

    def _check_room(self) -> None:
        if self.has_more:
            self._on_room(self)

    # Closing.

    async def close(self, timeout_s: float) -> bool:
        """Start nothing more, and wait at most *timeout_s* seconds for events in flight.

        Returns False when they did not end in time; the processor is then abandoned.
        """
        self.is_closing = True
        self._start_no_more()
        self._check_quiet()
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            self.abandon()
            return False
        return True

    def abandon(self) -> None:
        """Write nothing more; events that end from now on will be read again."""
        self.state.is_abandoned = self.is_closing = True
        self._start_no_more()

    def _start_no_more(self) -> None:
        self._fetches.clear()
        self.lanes.clear()
        self._resting.let_go()
        self.backs.stop()

    def _check_quiet(self) -> None:
        if self.is_closing and not self.lanes.held and self.checkpoint_loop.task is None:
            self._quiet.set()
