"""The pipeline of a worker that makes tracing spans.

A worker chooses it when it starts, so the plain pipeline needs no check for each event.
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
    """A pipeline with a span for each time that an event is processed.

    An event that is tried again has several spans.
    """

    tracing: Tracing

    async def carry(self, work: WorkItem, state: PartitionState) -> Outcome:
        """Process one event in a span, see `Pipeline.carry`."""
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
    """A failure policy that notes errors on the span of the event.

    Each failed attempt is noted, and the reason of a dead letter.
    """

    tracing: Tracing

    def failed(
        self,
        handler: Handler,
        handlers: Sequence[Handler],
        error: BaseException,
        unit: UnitOfWork,
        past: RetryContext | None,
    ) -> RetryContext:
        """Note the error, and decide as `FailurePolicy.failed` does."""
        self.tracing.failed(error, masked(text_of(error), unit.record))
        return super().failed(handler, handlers, error, unit, past)

    def dead_letter(self, failure: Failure, unit: UnitOfWork, past: RetryContext | None) -> None:
        """Note the error unless an attempt has noted it, see `FailurePolicy.dead_letter`."""
        if not failure.attempts:  # else `failed` has noted it
            self.tracing.failed(failure.error, masked(str(failure.error), unit.record))
        super().dead_letter(failure, unit, past)


def traced(pipeline: Pipeline, tracing: Tracing | None) -> Pipeline:
    """Return a pipeline with spans, or *pipeline* itself if *tracing* is None."""
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
