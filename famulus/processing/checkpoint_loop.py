"""Checkpoint loop: write the checkpoints of one partition one after the other.

The next checkpoint fills meanwhile.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from faust.types import TP

from famulus.errors import AccessError, ConfigError, InvariantError, OperatingError, UnsentError
from famulus.kafka.client_errors import fault_of
from famulus.observability.logs import described
from famulus.processing.in_flight import InFlight
from famulus.processing.pipeline import Pipeline
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import SourcePosition
from famulus.state.checkpointer import Checkpointer, Probe
from famulus.state.partition_state import Checkpoint, PartitionState
from famulus.wall_clock import wall_ms

log = structlog.get_logger()
LINGER_STEP_S = 0.002
LEASE_S = 0.05  # between two checks whether the worker is still a member of the group
# Between two attempts to send records that Kafka refuses: the first wait and the longest one.
SEND_RETRY_S = (1.0, 30.0)


@dataclass(frozen=True, slots=True)
class WorkerCallbacks:
    """Functions of the worker that the checkpoint loop calls.

    *may_write* returns whether the group still counts on this worker. *publish* sends events.
    *on_fault* ends the worker. *probe* is called with the name of each step. *now_ms* is the clock
    that events are judged by, in milliseconds since 1970.
    """

    may_write: Callable[[], bool]
    publish: Callable[[Sequence[ProducerRecord]], Awaitable[object]]
    on_fault: Callable[[Exception], Awaitable[Any]]
    probe: Probe
    now_ms: Callable[[], int] = wall_ms


@dataclass(frozen=True, slots=True)
class LingerPolicy:
    """Limits of how long a checkpoint stays open for more events.

    Seconds at most, the number of events that is enough, and whether more events are to come.
    """

    most_s: float
    enough: int
    has_more: Callable[[], bool]


class CheckpointLoop:
    """Writes the checkpoints of *state* until none is left.

    *checkpointer* makes a checkpoint durable; it is None for a subscription without state.
    *on_settled* is called after each checkpoint, *on_end* when none is left.
    """

    def __init__(
        self,
        tp: TP,
        pipeline: Pipeline,
        state: PartitionState,
        *,
        checkpointer: Checkpointer | None,
        in_flight: InFlight,
        linger: LingerPolicy,
        ties: WorkerCallbacks,
        on_settled: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self.unsent = ""  # why Kafka refuses the records that events publish
        self._tp, self._pipeline, self._state, self._checkpointer = (
            tp,
            pipeline,
            state,
            checkpointer,
        )
        self._in_flight, self._for_more, self._ties = in_flight, linger, ties
        self._on_settled, self._on_end = on_settled, on_end
        processed = state.processed or SourcePosition(0)
        # All offsets below it are durable, None before any is. Those that an earlier owner settled
        # count: its commit may be lost, and without new records the group would seem to lag
        # forever.
        self.offset = state.processed.next_offset if state.processed is not None else None
        self._counts = Counter(processed.counts)  # of the partition, since its state began
        self.task: asyncio.Task[None] | None = None  # while it writes
        # A number for the checkpoint that is being written; each has another one.
        self.group_mark: int | None = None
        self._groups = 0

    @property
    def unwritten(self) -> str:
        """Return why the disk refuses the effects of events, as text; empty if it does not."""
        return self._checkpointer.unwritten if self._checkpointer is not None else ""

    def start(self) -> None:
        """Start writing checkpoints if there are any, unless a task does so already."""
        if self.task is None and not self._state.is_settled:
            self.task = asyncio.create_task(
                self._settle(), name=f"settle {self._tp.topic}-{self._tp.partition}"
            )

    async def _settle(self) -> None:
        """Write checkpoint after checkpoint until none is left.

        A checkpoint that cannot be written ends the worker, see `state.checkpointer`.
        """
        place = f"{self._tp.topic}-{self._tp.partition}"
        try:
            while True:
                if self._checkpointer is not None:
                    await self._linger()
                if (group := self._state.next_to_settle()) is None:
                    break
                # No event signals the end of this; only time ends it.
                while not self._ties.may_write() and self._may_apply():
                    await asyncio.sleep(LEASE_S)
                if not self._may_apply() or not await self._settle_group(group):
                    return
                self._on_settled()
        except OperatingError as error:
            await self._ties.on_fault(error)
        except (
            Exception,
            asyncio.CancelledError,
        ) as error:  # the worker itself never cancels the task while it writes
            if not self._state.is_abandoned:
                log.exception("cannot settle", place=place)
                await self._ties.on_fault(_fault_of(error, place))
        finally:
            self.task = self.group_mark = None
            self._on_end()

    async def _linger(self) -> None:
        """Let the checkpoint fill while there is more to start.

        The fixed cost of a checkpoint is then shared by more events.
        """
        until = time.monotonic() + self._for_more.most_s
        # Many things may end this wait, and none is worth a notification for each event.
        while (
            self._for_more.has_more()
            and self._state.is_filling
            and self._state.filling.events < self._for_more.enough
            and time.monotonic() < until
        ):
            await asyncio.sleep(LINGER_STEP_S)

    async def _settle_group(self, group: Checkpoint) -> bool:
        """Publish and write one checkpoint, then finish the offsets of its events.

        Returns False when the partition was revoked meanwhile; its next owner then handles them
        again.
        """
        since_s = time.perf_counter()
        self._groups += 1
        self.group_mark = self._groups
        if group.outbox and not await self._publish(group.outbox):
            return False
        self._in_flight.offsets.finished_all(group.offsets())
        ended = group.outcomes()
        self._counts.update(ended)
        processed: SourcePosition | None = None
        if self._checkpointer is not None:
            processed = self._in_flight.processed(wall_ms(), self._counts)
            if not await self._checkpointer.settle(group, processed, self._may_apply):
                return False
            self.offset = processed.next_offset
        self._state.settled(processed)
        for finished, place, outcome in group.returned:
            finished(place)
            ended[outcome] += 1
        for outcome, count in ended.items():
            self._pipeline.note(outcome, count)
        counts = self._pipeline.counts
        counts.group_records.note(group.events)
        counts.settling_s.note(time.perf_counter() - since_s)
        self.group_mark = None
        return True

    async def _publish(self, records: Sequence[ProducerRecord]) -> bool:
        """Publish *records*, and retry for as long as Kafka refuses them.

        Returns False when the partition was revoked meanwhile.
        """
        wait_s, longest_s = SEND_RETRY_S
        self._ties.probe("publishing")
        while self._may_apply():
            try:
                await self._ties.publish(records)
            except UnsentError as error:
                self.unsent = str(error)
                log.error(
                    "nothing of the partition is settled until this is sent",
                    topic=self._tp.topic,
                    partition=self._tp.partition,
                    error=str(error),
                    again_in_s=wait_s,
                )
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, longest_s)
            else:
                self.unsent = ""
                self._ties.probe("published")
                return self._may_apply()
        return False

    def _may_apply(self) -> bool:
        return not self._state.is_abandoned


def _fault_of(error: BaseException, place: str) -> OperatingError:
    """Return the error that ends the worker because *place* cannot be settled.

    ConfigError and AccessError need an operator. After any other error, a restart reads the truth
    from the log.
    """
    fault = fault_of(error)
    if isinstance(fault, (ConfigError, AccessError)):
        return type(fault)(f"{place} could not be settled: {fault.message}")
    return InvariantError(f"{place} could not be settled: {described(error)}; it is read again")
