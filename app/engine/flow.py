"""One assigned partition at work: what was received of it, its lanes, the group that fills and the one that is settled.

A flow lives for one assignment. Whatever is still in hand of an earlier one ends in a flow that nobody looks at.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from faust.types import TP

from app.engine.back import Backs
from app.engine.inflight import InFlight
from app.engine.lanes import Lanes
from app.engine.pipeline import Pipeline, Work
from app.engine.rest import Cancel, Rest
from app.errors import InvariantError, OperatingError, UnreadableError, UnsentError
from app.state.commit import Probe, Settler
from app.state.partition import Group, Partition
from app.storage.changelog import Processed
from app.wire.envelope import Outcome, Outgoing, Record

log = structlog.get_logger()
LINGER_STEP_S = 0.002
LEASE_S = 0.05  # between two looks whether we are still a member of the group
SEND_RETRY_S = (1.0, 30.0)  # between two tries to send what Kafka refuses: the first wait, the longest one
FETCHES = 2  # one that is unpacked and one behind it, so that no partition runs dry between two polls


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

    def records(self, limit: int) -> Iterator[Sequence[Record]]:
        """The records, *limit* at a time."""


@dataclass(frozen=True, slots=True)
class Ties:
    """What a flow is tied to: whether the group counts on us, how events leave, who is told what.

    *on_fault* ends the worker, *on_room* makes the crew look again, *probe* is told the steps of settling.
    """

    may_write: Callable[[], bool]
    publish: Callable[[Sequence[Outgoing]], Awaitable[object]]
    on_fault: Callable[[Exception], Awaitable[Any]]
    on_room: Callable[["Flow"], None]
    probe: Probe


class Flow:
    """The records of one partition, from the fetch to the finished offset.

    *state* is what the partition remembers, *settler* makes it durable, None for a subscription that remembers nothing.
    *begin* is the offset where reading begins.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # all that a flow is tied to
        self, tp: TP, pipeline: Pipeline, state: Partition, settler: Settler | None, limits: Limits, ties: Ties,
        begin: int = 0,
    ) -> None:  # fmt: skip
        self.tp = tp
        self.begin = begin
        self.pipeline = pipeline
        self.state = state
        self.lanes: Lanes[Work] = Lanes(limits.lanes)
        self.is_listed = False  # the crew's own note
        self.is_closing = False
        self._settled_offset: int | None = None
        self._settler = settler
        self._limits = limits
        self._ties = ties
        self.position = 0  # where the next fetch is expected to begin, or later
        self._fetches: deque[Iterator[Sequence[Record]]] = deque()
        self._quiet = asyncio.Event()
        self._settling: asyncio.Task[None] | None = None
        processed = state.processed or Processed(0)
        self.in_flight = InFlight(processed, limits.records, limits.bytes, begin)
        self.offsets = self.in_flight.offsets
        self._counts = Counter(processed.counts)  # of the partition, since its state began
        self._resting: dict[Hashable, tuple[Work, Cancel]] = {}  # by lane
        places = [TP(topic, tp.partition) for topic in pipeline.topics_back]
        self.backs = Backs(places, limits.records, lambda: ties.on_room(self))
        self.halted = ""  # why nothing more is started, in words
        self.blocked = ""  # why nothing can be settled
        self.paused = ""  # by whom, and why

    @property
    def settled_offset(self) -> int | None:
        """What may be committed of the source: everything below it is settled. None before any is."""
        return self.offsets.next_offset if self._settler is None else self._settled_offset

    def behind(self, log_end: int) -> int:
        """How many offsets up to *log_end*, one past the newest record, are not settled.

        Holes among them count. Where all that was received is settled, what follows it (markers of transactions) does
        not: it has been read.
        """
        settled = self.begin if self.settled_offset is None else self.settled_offset
        is_idle = not (self.offsets.in_flight or self._fetches or self._settling)
        return max(log_end - (max(settled, self.position) if is_idle else settled), 0)

    @property
    def has_state(self) -> bool:
        """Whether the subscription remembers anything."""
        return self._settler is not None

    def renewed(self, begin: int) -> "Flow":
        """A new flow for the same partition of a subscription that remembers nothing."""
        state = Partition(self.tp.partition, None, self.state.group_bytes)
        return Flow(self.tp, self.pipeline, state, None, self._limits, self._ties, begin)

    # In.

    def receive(self, packed: Packed) -> None:
        """Take a fetch, to be unpacked when its turn comes: records take less memory packed, and are handled warm."""
        if not self.is_closing:
            self._fetches.append(packed.records(self._limits.chunk))
            self.position = packed.next_offset

    def forget(self) -> None:
        """Do not unpack what is left."""
        self._fetches.clear()
        self.position = self.offsets.newest + 1

    def receive_back(self, tp: TP, packed: Packed) -> None:
        """The same for a topic through which records come back."""
        if not self.is_closing:
            self.backs.receive(tp, packed.records(self._limits.chunk))

    def refill(self) -> bool:
        """Unpack some records for the lanes. False when nothing more may start now, or the next ones cannot be read.

        Raises CorruptRecordException as `fetch.Chunks` does.
        """
        try:
            return not self.is_closing and self._refill()
        except UnreadableError as error:
            if not self.halted:
                self._halt(str(error))
            return False

    def _refill(self) -> bool:
        # What halted because it has too many dead letters is told here that some are dropped.
        if self.backs.is_due and (self.halted or not self.lanes.is_full) and self._refill_back():
            return True
        while self._fetches and not (self.lanes.is_full or self.in_flight.is_full):
            records = next(self._fetches[0], None)
            if records is not None:
                self._receive(records)
                return True
            self._fetches.popleft()
        return False

    def _receive(self, records: Sequence[Record]) -> None:
        left, stream_ms = self.in_flight.received(records, time.time_ns() // 1_000_000)
        self.pipeline.counts.received += len(left)
        works = self.pipeline.works_of(left, self.state, stream_ms)
        self.lanes.add(zip(self.pipeline.lanes_of(left), works, strict=True), len(left))

    def _refill_back(self) -> bool:
        """What has come back and is due."""
        works: list[Work] = []
        now_ms = time.time_ns() // 1_000_000
        for returned, finished, place in self.backs.take(now_ms, self._limits.chunk):
            if returned.action == "drop":
                self.pipeline.drop(returned, self.state)
                self.state.filling.returned.append((finished, place, "ignored"))
            else:
                # The stream had come to it, also if nothing of it was read in this assignment.
                stream_ms = max(self.in_flight.stream_ms, min(returned.timestamp, now_ms))
                works.append(self.pipeline.work_back(returned, finished, place, stream_ms))
        self.pipeline.counts.received += len(works)
        self._start_settling()
        self.lanes.add(zip(self.pipeline.lanes_of([work[0] for work in works]), works, strict=True), len(works))
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

    def ended(self, work: Work, outcome: Outcome) -> None:
        """A record was carried; its offset is finished when its group is settled."""
        group, past = self.state.filling, work[5]
        if past is not None and past.finished is not None:
            group.returned.append((past.finished, past.place, outcome))
        elif self._settler is None and not group.outbox:
            self.pipeline.note(outcome)
            self.offsets.finished(work[0].offset)
            return
        else:
            group.ended.append((work[0].offset, outcome))
        self._start_settling()

    async def carry_timed(self, work: Work, state: Partition) -> Outcome:
        """What the pipeline's `carry` does, and note how long it took, whatever came of it."""
        since_s = time.perf_counter()
        try:
            return await self.pipeline.carry(work, state)
        finally:
            self.pipeline.counts.processing_s.note(time.perf_counter() - since_s)

    def rest(self, lane: Hashable, work: Work, rest: Rest, *, is_held: bool) -> None:
        """The record that *lane* was started for, or is held for, is not done, and nobody is at work on it."""
        self.lanes.rest(lane, is_held=is_held)
        work = (*work[:5], rest.past)
        if self.is_closing:
            self._drop(work)
            self._check_quiet()
        else:
            self._resting[lane] = work, rest.until(lambda: self._resume(lane))
            if rest.halts:
                self._halt(rest.halts)
        self._start_settling()

    def _resume(self, lane: Hashable) -> None:
        work, _ = self._resting.pop(lane, (None, None))
        if work is not None:
            self.lanes.resume(lane, work)
            self._ties.on_room(self)

    def _drop(self, work: Work) -> None:
        """An event that rests is left to whoever has the partition next."""
        past = work[5]
        if past is not None and past.unit is not None:
            past.unit.end()

    def _drop_resting(self) -> None:
        for work, cancel in self._resting.values():
            cancel()
            self._drop(work)
        self._resting.clear()
        self.backs.stop()

    def _halt(self, why: str) -> None:
        self.halted = why
        self.lanes.stop()
        log.error(why, topic=self.tp.topic, partition=self.tp.partition)

    def pause(self, why: str) -> None:
        """Start nothing more while there is a *why*, in words; go on when it is empty. What is in hand is settled."""
        was_paused, self.paused = bool(self.paused), why
        if why:
            self.lanes.stop()
        elif was_paused and not self.halted:
            self.lanes.go_on()
            self._ties.on_room(self)

    def finish(self, lane: Hashable) -> None:
        """The record that *lane* was held for has ended, one way or the other."""
        self.lanes.finish(lane)
        if self.is_closing:
            self._check_quiet()

    def _start_settling(self) -> None:
        if self._settling is None and not self.state.is_settled:
            name = f"settle {self.tp.topic}-{self.tp.partition}"
            self._settling = asyncio.create_task(self._settle(), name=name)

    async def _settle(self) -> None:
        """Settle group after group until nothing is owed. What cannot be settled ends the worker: `state.commit`."""
        place = f"{self.tp.topic}-{self.tp.partition}"
        try:
            while True:
                if self._settler is not None:
                    await self._linger()
                if (group := self.state.next_to_settle()) is None:
                    break
                while not self._ties.may_write() and self._may_apply():  # noqa: ASYNC110  # time alone does it
                    await asyncio.sleep(LEASE_S)
                if not self._may_apply() or not await self._settle_group(group):
                    return
                if self.has_more:
                    self._ties.on_room(self)
        except OperatingError as error:
            await self._ties.on_fault(error)
        except Exception as error:
            if not self.state.is_abandoned:
                log.exception("cannot settle", place=place)
                await self._ties.on_fault(InvariantError(f"{place} could not be settled: {error!r}; it is read again"))
        finally:
            self._settling = None
            self._check_quiet()

    async def _linger(self) -> None:
        """While there is more to start, let the group fill: more events then share what a group costs by itself."""
        until = time.monotonic() + self._limits.linger_s
        while (  # noqa: ASYNC110  # many things may bring it about, and none is worth a call for each event
            self.has_more and not self.is_closing and self.state.is_filling
            and len(self.state.filling.ended) < self._limits.linger_records and time.monotonic() < until
        ):  # fmt: skip
            await asyncio.sleep(LINGER_STEP_S)

    async def _settle_group(self, group: Group) -> bool:
        """Settle one group. False when the partition was taken away meanwhile: then it is left to its next owner."""
        since_s = time.perf_counter()
        if group.outbox and not await self._publish(group.outbox):
            return False
        self.offsets.finished_all([offset for offset, _ in group.ended])
        ended = Counter([outcome for _, outcome in group.ended])
        self._counts.update(ended)
        processed: Processed | None = None
        if self._settler is not None:
            processed = self.in_flight.processed(time.time_ns() // 1_000_000, self._counts)
            if not await self._settler.settle(group, processed, self._may_apply):
                return False
            self._settled_offset = processed.next_offset
        self.state.settled(processed)
        for finished, place, outcome in group.returned:
            finished(place)
            ended[outcome] += 1
        for outcome, count in ended.items():
            self.pipeline.note(outcome, count)
        self.pipeline.counts.group_records.note(len(group.ended) + len(group.returned))
        self.pipeline.counts.settling_s.note(time.perf_counter() - since_s)
        return True

    async def _publish(self, records: Sequence[Outgoing]) -> bool:
        """Have *records* leave, however long Kafka refuses them. False when the partition was taken away meanwhile."""
        wait_s, longest_s = SEND_RETRY_S
        self._ties.probe("publishing")
        while self._may_apply():
            try:
                await self._ties.publish(records)
            except UnsentError as error:
                self.blocked = str(error)
                log.error("nothing of the partition is settled until this is sent", topic=self.tp.topic,  # noqa: TRY400
                          partition=self.tp.partition, error=str(error), again_in_s=wait_s)  # fmt: skip
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, longest_s)
            else:
                self.blocked = ""
                self._ties.probe("published")
                return self._may_apply()
        return False

    def _may_apply(self) -> bool:
        return not self.state.is_abandoned

    # Out.

    async def close(self, timeout_s: float) -> bool:
        """Start nothing more, and wait for what is in hand. False when it did not end in time: then it is abandoned."""
        self.is_closing = True
        self._fetches.clear()
        self.lanes.clear()
        self._drop_resting()
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
        self._fetches.clear()
        self.lanes.clear()
        self._drop_resting()

    def _check_quiet(self) -> None:
        if self.is_closing and not self.lanes.held and self._settling is None:
            self._quiet.set()
