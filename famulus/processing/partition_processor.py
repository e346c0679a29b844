"""One assigned partition at work: what was received of it, its lanes, the group that fills and the one that is settled.

A flow lives for one assignment. Whatever is still in hand of an earlier one ends in a flow that
nobody looks at.
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
# One that is unpacked and one behind it, so that no partition runs dry between two polls.
FETCHES = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one partition may hold and have at work."""

    lanes: int
    records: int
    bytes: int
    chunk: int  # records unpacked, and their marks looked up, at once
    linger_s: float = 0.0  # a group may wait for more while there is more to start
    linger_records: int = 1_000  # which is then enough


class Packed(Protocol):
    """What a fetch brought of one partition, see `worker.fetch`."""

    next_offset: int
    leader_epoch: int

    def records(self, limit: int) -> Iterator[Sequence[ConsumerRecord]]:
        """The records, *limit* at a time."""


class PartitionProcessor:
    """The records of one partition, from the fetch to the finished offset.

    *state* is what the partition remembers, *settler* makes it durable, None for a subscription
    that remembers nothing. *on_room* makes the crew look again, *begin* is the offset where reading
    begins.
    """

    def __init__(  # noqa: PLR0917  # all that a flow is tied to
        self,
        tp: TP,
        pipeline: Pipeline,
        state: PartitionState,
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
        self.is_listed = False  # the crew's own note
        # Offsets of what was handled, finished before anybody but the crew has a turn.
        self.done: list[int] = []
        self.is_closing = False
        self._limits = limits
        self._ties, self._on_room = ties, on_room
        self.position = 0  # where the next fetch is expected to begin, or later
        # Each with where the next one begins.
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
            checkpointer,
            self.in_flight,
            linger,
            ties,
            self._check_room,
            self._check_quiet,
        )
        self.has_state = checkpointer is not None  # whether the subscription remembers anything
        self.halted = ""  # why nothing more is started, in words
        self._is_barred = False  # nothing at all is started, not even what an operator sends back
        self.paused = ""  # by whom, and why

    @property
    def checkpointed_offset(self) -> int | None:
        """What may be committed of the source: everything below it is settled.

        None before any is.
        """
        return self.checkpoint_loop.offset if self.has_state else self.offsets.next_offset

    @property
    def blocked(self) -> str:
        """Why nothing can be settled, in words."""
        return self.checkpoint_loop.unsent or self.unwritten

    @property
    def unwritten(self) -> str:
        """The same where it is the disk that takes nothing."""
        return self.checkpoint_loop.unwritten

    def behind(self, log_end: int) -> int:
        """How many offsets up to *log_end*, one past the newest record, are not settled.

        Holes among them count. Where all that was received is settled, what follows it (markers of
        transactions) does not: it has been read.
        """
        settled = max(self.begin, self.checkpointed_offset or 0)
        is_idle = not (self.offsets.in_flight or self._fetches or self.checkpoint_loop.task)
        return max(log_end - (max(settled, self.position) if is_idle else settled), 0)

    def renewed(self, begin: int) -> "PartitionProcessor":
        """A new flow for the same partition of a subscription that remembers nothing."""
        state = PartitionState(self.tp.partition, None, self.state.group_bytes, self.tp.topic)
        return PartitionProcessor(
            self.tp, self.pipeline, state, None, self._limits, self._ties, self._on_room, begin
        )

    # In.

    def receive(self, packed: Packed) -> None:
        """Take a fetch, to be unpacked when its turn comes: records take less memory packed, and are handled warm."""
        if not self.is_closing:
            self._fetches.append((packed.records(self._limits.chunk), packed.next_offset))
            self.position = packed.next_offset
            self.in_flight.leader_epoch = max(self.in_flight.leader_epoch, packed.leader_epoch)

    def forget(self) -> None:
        """Do not unpack what is left."""
        self._fetches.clear()
        self.position = self.offsets.newest + 1

    def receive_redelivery(self, tp: TP, packed: Packed) -> None:
        """The same for a topic through which records come back."""
        if not self.is_closing:
            self.backs.receive(tp, packed.records(self._limits.chunk))

    def refill(self) -> bool:
        """Unpack some records for the lanes.

        False when nothing more may start now, or the next ones cannot be read.
        """
        self.turn_ended()  # which may make room
        try:
            return not (self.is_closing or self._is_barred) and self._refill()
        except UnreadableError as error:
            if not self.halted:
                self._halt(f"{error}{self._cure(error)}")
            return False

    def _cure(self, error: UnreadableError) -> str:
        """Say what skips the records that *error* is about, where they stand in a topic."""
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
        # What halted because it has too many dead letters is told here that some are dropped.
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
        """All of the log below *position* is unpacked.

        Where nothing is in hand, that is settled without a record.
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
        """What has come back and is due."""
        works: list[WorkItem] = []
        now_ms = self._ties.now_ms()
        for returned, finished, place in self.backs.take(now_ms, self._limits.chunk):
            if returned.action == "drop":
                self.pipeline.drop(returned, self.state)
                self.state.filling.returned.append((finished, place, "ignored"))
            else:
                # The stream had come to it, also if nothing of it was read in this assignment.
                stream_ms = max(self.in_flight.stream_ms, min(returned.timestamp, now_ms))
                works.append(self.pipeline.redelivery_work(returned, finished, place, stream_ms))
        self.pipeline.counts.received += len(works)
        self.checkpoint_loop.start()
        self.lanes.add(works, len(works))
        return bool(works)

    @property
    def has_more(self) -> bool:
        """Whether there is anything that has not started, and may when there is room."""
        return bool(self.lanes.waiting or self._fetches or self.backs.is_due)

    @property
    def is_busy(self) -> bool:
        """Whether the partition has enough to do for now."""
        return len(self._fetches) >= FETCHES or self.in_flight.is_full

    # At work.

    def ended(self, work: WorkItem, outcome: Outcome) -> None:
        """A record was carried: it is finished with the group that has its effects, at once when it left none."""
        group, past = self.state.filling, work[2]
        if past is not None and past.finished is not None:
            group.returned.append((past.finished, past.place, outcome))
        elif self.has_state or group.outbox:
            group.ended(work[1].offset, outcome)
        else:
            self.pipeline.note(outcome)
            self.offsets.finished(work[1].offset)

    def turn_ended(self) -> None:
        """The crew has carried some records: what left nothing to settle is finished, the rest is settled."""
        if self.done:
            self.pipeline.note("handled", len(self.done))
            self.offsets.finished_all(self.done)
            self.done.clear()
        self.checkpoint_loop.start()

    def choose_timed(self, begun: int) -> tuple[int, int, int]:
        """Begin a stretch with the event of the number *begun*: which one is timed first, and how far apart others."""
        first, apart = self.timing.choose(self.lanes.waiting, has_more=bool(self._fetches))
        return begun, begun + first, apart

    def rest(self, work: WorkItem, rest: Defer, *, is_held: bool) -> None:
        """The record of *work*, started or held, is not done, and nobody is at work on it."""
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
        """Start nothing at all, for a reason that only another start of the partition can end."""
        self._is_barred = True
        self._halt(why)

    def _halt(self, why: str) -> None:
        self.halted = why
        self.lanes.stop()
        log.error(why, topic=self.tp.topic, partition=self.tp.partition)

    def pause(self, why: str) -> None:
        """Start nothing more while there is a *why*, in words; go on when it is empty.

        What is in hand is settled.
        """
        was_paused, self.paused = bool(self.paused), why
        if why:
            self.lanes.stop()
        elif was_paused and not self.halted:
            self.lanes.go_on()
            self._on_room(self)

    def widen(self, lanes: int) -> None:
        """Have at most so many records in hand at once, from the next one on."""
        if self.lanes.resize(lanes):
            self._on_room(self)

    def finish(self, lane: Hashable) -> None:
        """The record that *lane* was held for has ended, one way or the other."""
        self.lanes.finish(lane)
        if self.is_closing:
            self.turn_ended()  # else it would look as if nothing were owed
            self._check_quiet()

    def _check_room(self) -> None:
        if self.has_more:
            self._on_room(self)

    # Out.

    async def close(self, timeout_s: float) -> bool:
        """Start nothing more, and wait for what is in hand.

        False when it did not end in time: then it is abandoned.
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
        """Write nothing more, whatever ends from now on: it will be read again."""
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
