"""The intake: the flows of this worker's assigned partitions, and whether any of them is held back."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import structlog
from faust.types import TP

from famulus.consumer.fetcher import Packed
from famulus.control.concurrency import WORKER
from famulus.control.control_state import Told
from famulus.errors import ConfigError
from famulus.processing.checkpoint_loop import Ties
from famulus.processing.offset_tracker import gone
from famulus.processing.partition_processor import Flow, Limits
from famulus.processing.pipeline import Pipeline
from famulus.processing.task_pool import Crew
from famulus.serialization.records import Outgoing
from famulus.state.checkpointer import Probe
from famulus.state.manager import Held
from famulus.wall_clock import wall_ms

log = structlog.get_logger()


class Intake:
    """Opens a flow for each assigned partition and feeds the crew. *on_fault* ends the worker."""

    def __init__(  # noqa: PLR0917  # what all flows are tied to
        self,
        limits: Limits,
        concurrency: int,
        timeouts_s: Mapping[str, float],
        may_write: Callable[[], bool],
        publish: Callable[[Sequence[Outgoing]], Awaitable[object]],
        on_fault: Callable[[Exception], Awaitable[Any]],
        probe: Probe,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.flows: dict[TP, Flow] = {}
        self.carrying: Counter[str] = Counter()  # agents that carry, by topic as on the cluster
        self.crew = Crew(concurrency, on_fault, timeouts_s)
        # Topics through which records come back, and to which flow.
        self.returning: dict[TP, Flow] = {}
        # Where the next fetch of a partition begins unless its log has lost records.
        self._next: dict[TP, int] = {}
        self.told = Told()
        self.pauses = self.told.pauses
        self._concurrency = concurrency  # unless an operator says otherwise
        self._limits = limits
        self._ties = Ties(may_write, publish, on_fault, probe, now_ms)

    def open(
        self,
        assigned: Mapping[TP, tuple[Pipeline, Held, int]],
        back: Mapping[TP, int] = MappingProxyType({}),
    ) -> None:
        """Start new flows, each with the offset where it begins; *back* says so of what comes back to them.

        Whatever is still in hand of an earlier assignment ends in the old ones, unseen.
        """
        self.abandon()
        self.flows = {
            tp: Flow(
                tp,
                pipeline,
                held.partition,
                held.settler,
                self._limits,
                self._ties,
                self.crew.wake,
                begin,
            )
            for tp, (pipeline, held, begin) in assigned.items()
        }
        self.returning = {back: flow for flow in self.flows.values() for back in flow.backs.of}
        self._next = {tp: begin for tp, (_, _, begin) in assigned.items()} | dict(back)
        for tp, (_, held, _) in assigned.items():
            if held.unreadable:
                self.flows[tp].bar(held.unreadable)
        self.heed()

    def heed(self) -> None:
        """Have each flow stand still or go on, with as many events in hand, as operators have `told` by now."""
        self.crew.resize(self.told.widths.get(WORKER, self._concurrency))
        for tp, flow in self.flows.items():
            flow.widen(self.told.widths.get(tp.topic, self._limits.lanes))
            flow.pause(self.pauses.why(tp.topic, tp.partition))
            flow.state.troubles.note_held(self.told.holdups.times(tp.topic, tp.partition))

    @property
    def usual_lanes(self) -> int:
        """How many events of one partition may be in hand at once, unless an operator says otherwise."""
        return self._limits.lanes

    def paused(self) -> set[TP]:
        """The partitions that need no fetch while they are paused, those through which records come back included."""
        return {tp for of in (self.flows, self.returning) for tp, flow in of.items() if flow.paused}

    def settled_offset(self, tp: TP) -> int | None:
        """What may be committed of a partition. Raises KeyError when it is none of ours."""
        flow = self.flows.get(tp)
        return (
            flow.settled_offset
            if flow is not None
            else self.returning[tp].backs.of[tp].offsets.next_offset
        )

    @property
    def ours(self) -> list[TP]:
        """The partitions that flows read."""
        return [*self.flows, *self.returning]

    def receive(self, tp: TP, packed: Packed) -> Flow | None:
        """Give a fetch to its flow, None when nobody has the partition any more."""
        back = self.returning.get(tp)
        flow = self.flows.get(tp) if back is None else back
        if flow is None or flow.is_closing:
            return None
        self.moved(tp, packed.first_offset)
        self._next[tp] = packed.next_offset
        if back is not None:
            back.receive_back(tp, packed)
            return back
        if packed.first_offset < flow.position:
            if flow.has_state:
                raise ConfigError(
                    f"{tp.topic}-{tp.partition} goes on at offset {packed.first_offset}, but "
                    "was read up to "
                    f"{flow.position}: the topic was made anew or lost records, and its state "
                    "knows others; "
                    f"`faust -A app state replay --topic {tp.topic}` makes the state anew"
                )
            log.warning(
                "the log was rewound; it is read again",
                topic=tp.topic,
                partition=tp.partition,
                offset=packed.first_offset,
                was_at=flow.position,
            )
            flow.abandon()
            flow = self.flows[tp] = flow.renewed(packed.first_offset)
            self.returning |= dict.fromkeys(flow.backs.of, flow)
            self.heed()
        flow.receive(packed)
        return flow

    def moved(self, tp: TP, position: int) -> None:
        """Note that reading goes on at *position*: behind what was expected when the log has lost records."""
        before, flow = self._next.get(tp), self.flows.get(tp) or self.returning.get(tp)
        if before is None or flow is None or position <= before:
            return
        self._next[tp] = position
        if tp in self.flows:
            flow.position = position
        flow.pipeline.counts.gone += position - before
        log.warning(
            gone(before, position), topic=tp.topic, partition=tp.partition, goes_on_at=position
        )

    def forget(self, tp: TP) -> None:
        """Have a partition's flow forget what it did not unpack yet: reading goes on elsewhere."""
        self._next.pop(tp, None)
        if tp in self.flows:
            self.flows[tp].forget()
        elif tp in self.returning:
            self.returning[tp].backs.of[tp].forget()

    def busy(self) -> set[TP]:
        """The partitions that need no further fetch now."""
        busy = {tp for tp, flow in self.flows.items() if flow.is_busy}
        return busy | {tp for tp, flow in self.returning.items() if flow.backs.of[tp].is_busy}

    async def close(self, timeout_s: float) -> bool:
        """Take no more, and wait for the work in hand. False when it did not end in time."""
        return all(await asyncio.gather(*(flow.close(timeout_s) for flow in self.flows.values())))

    def abandon(self) -> None:
        """Take no more, wait for nothing, and write nothing more."""
        for flow in self.flows.values():
            flow.abandon()
