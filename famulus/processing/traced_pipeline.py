"""The pipeline of a worker that makes spans.

Chosen at its start, so that the other one does not even ask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from famulus.deadletter.masking import masked
from famulus.deadletter.record import Failure
from famulus.formatting import text_of
from famulus.observability.tracing import Tracing
from famulus.processing.deferral import Defer, RetryContext
from famulus.processing.failure_policy import FailurePolicy
from famulus.processing.handlers import Handler
from famulus.processing.pipeline import Pipeline, WorkItem
from famulus.serialization.records import Outcome
from famulus.state.partition_state import PartitionState
from famulus.state.unit_of_work import UnitOfWork


@dataclass(frozen=True, kw_only=True)
class TracedPipeline(Pipeline):
    """A span for each time that an event is in hand: an event that is tried again has several."""

    tracing: Tracing

    async def carry(self, work: WorkItem, state: PartitionState) -> Outcome:
        """See `Pipeline.carry`."""
        with self.tracing.process(work[1], self.types.name_of(work[1])) as span:
            try:
                outcome = await super().carry(work, state)
            except Defer:
                span.ended("rests")
                raise
            span.ended(outcome)
            return outcome


@dataclass(frozen=True, kw_only=True)
class TracedFailurePolicy(FailurePolicy):
    """Notes on an event's span why it failed: each attempt, and what makes it a dead letter."""

    tracing: Tracing

    def failed(
        self,
        handler: Handler,
        handlers: Sequence[Handler],
        error: BaseException,
        unit: UnitOfWork,
        past: RetryContext | None,
    ) -> RetryContext:
        """See `Failing.failed`."""
        self.tracing.failed(error, masked(text_of(error), unit.record))
        return super().failed(handler, handlers, error, unit, past)

    def dead_letter(self, failure: Failure, unit: UnitOfWork, past: RetryContext | None) -> None:
        """See `Failing.bury`."""
        if not failure.attempts:  # else it was said when it failed
            self.tracing.failed(failure.error, masked(str(failure.error), unit.record))
        super().dead_letter(failure, unit, past)


def traced(pipeline: Pipeline, tracing: Tracing | None) -> Pipeline:
    """The same pipeline with spans, itself when there are none to make."""
    if tracing is None:
        return pipeline
    failure_policy = TracedFailurePolicy(**_values(pipeline.failure_policy), tracing=tracing)
    return TracedPipeline(
        **{**_values(pipeline), "failure_policy": failure_policy}, tracing=tracing
    )


def _values(
    of: Pipeline | FailurePolicy,
) -> dict[str, Any]:  # Any: each field has a type of its own
    return {field.name: getattr(of, field.name) for field in fields(of)}
