"""The pipeline of a worker that reports each consumed message.

A worker chooses it when it starts, so the plain pipeline needs no check for each event.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from famulus.observability.consumed import Consumed
from famulus.processing.deferral import Defer
from famulus.processing.pipeline import Pipeline, WorkItem
from famulus.serialization.records import Outcome, place_of
from famulus.state.partition_state import PartitionState

Tell = Callable[[Consumed], None]


@dataclass(frozen=True, kw_only=True)
class ToldPipeline(Pipeline):
    """A pipeline that runs *inner* and reports each event that has ended to all of *tells*.

    Events are reported before their effects are durable.
    """

    inner: Pipeline
    tells: tuple[Tell, ...]

    async def carry(self, work: WorkItem, state: PartitionState) -> Outcome:
        """Process one event, see `Pipeline.carry`."""
        began_s, record, past = time.monotonic(), work[1], work[2]
        try:
            outcome = await self.inner.carry(work, state)
        except Defer as rest:
            rest.past.in_hand_s += time.monotonic() - began_s
            raise
        seconds = time.monotonic() - began_s + (past.in_hand_s if past is not None else 0.0)
        ended: Outcome | Literal["postponed"] = outcome
        if (
            self.failure_policy.postponed
            and (place := place_of(record)) in self.failure_policy.postponed
        ):
            self.failure_policy.postponed.discard(place)
            ended = "postponed"
        name = self.types.name_of(record)
        consumed = Consumed(record.topic, record.partition, record.offset, name, ended, seconds)
        for tell in self.tells:
            tell(consumed)
        return outcome


def with_telemetry(pipeline: Pipeline, tells: Sequence[Tell]) -> Pipeline:
    """Return a pipeline that reports to *tells*, or *pipeline* itself if there are none."""
    if not tells:
        return pipeline
    inner = replace(pipeline, failure_policy=replace(pipeline.failure_policy, postponed=set()))
    values = {field.name: getattr(inner, field.name) for field in fields(Pipeline)}
    return ToldPipeline(**values, inner=inner, tells=tuple(tells))
