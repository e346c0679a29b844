"""The intake: the flows of this worker's assigned partitions, and whether any of them is held back."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from faust.types import TP

from app.engine.crew import Crew
from app.engine.fetch import Packed
from app.engine.flow import Flow, Limits
from app.engine.pipeline import Pipeline

log = structlog.get_logger()


class Intake:
    """Opens a flow for each assigned partition and feeds the crew. *on_fault* ends the worker."""

    def __init__(
        self, limits: Limits, concurrency: int, may_write: Callable[[], bool],
        on_fault: Callable[[Exception], Awaitable[Any]],
    ) -> None:  # fmt: skip
        self.flows: dict[TP, Flow] = {}
        self.crew = Crew(concurrency, on_fault)
        self._limits = limits
        self._may_write = may_write
        self._on_fault = on_fault

    def open(self, assigned: Mapping[TP, Pipeline]) -> None:
        """Start new flows: whatever is still in hand of an earlier assignment ends in the old ones, unseen."""
        self.abandon()
        self.flows = {tp: self._flow(tp, pipeline) for tp, pipeline in assigned.items()}

    def receive(self, tp: TP, packed: Packed) -> Flow | None:
        """Give a fetch to its flow, None when nobody has the partition any more."""
        flow = self.flows.get(tp)
        if flow is None or flow.is_closing:
            return None
        if packed.first_offset < flow.position:
            log.warning("the log was rewound; it is read again", topic=tp.topic, partition=tp.partition,
                        offset=packed.first_offset, was_at=flow.position)  # fmt: skip
            flow.abandon()
            flow = self.flows[tp] = self._flow(tp, flow.pipeline)
        flow.receive(packed)
        return flow

    def forget(self, tp: TP) -> None:
        """Have a partition's flow forget what it did not unpack yet: reading goes on elsewhere."""
        if tp in self.flows:
            self.flows[tp].forget()

    def busy(self) -> set[TP]:
        """The partitions that need no further fetch now."""
        return {tp for tp, flow in self.flows.items() if flow.is_busy}

    async def close(self, timeout_s: float) -> bool:
        """Take no more, and wait for the work in hand. False when it did not end in time."""
        return all(await asyncio.gather(*(flow.close(timeout_s) for flow in self.flows.values())))

    def abandon(self) -> None:
        """Take no more, wait for nothing, and write nothing more."""
        for flow in self.flows.values():
            flow.abandon()

    def _flow(self, tp: TP, pipeline: Pipeline) -> Flow:
        return Flow(tp, pipeline, self._limits, self._may_write, self._on_fault, self.crew.wake)
