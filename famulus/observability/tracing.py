"""Tracing: the interface of spans, and the choice of its implementation at the start.

A worker without tracing pays nothing for it. The implementation, `otel_tracing`, is imported only
if tracing is on, so OpenTelemetry need not be installed.
"""

import sys
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, cast

from famulus.config import KafkaConfig
from famulus.observability.otel import otel
from famulus.serialization.records import ConsumerRecord, Headers

Mode = Literal["auto", "link", "parent", "off"]


class Place(Protocol):
    """Position of a record in its topic."""

    @property
    def partition(self) -> int:
        """Return the partition."""

    @property
    def offset(self) -> int:
        """Return the offset."""


class Processing(Protocol):
    """Span of an event that is being processed."""

    def ended(self, outcome: str) -> None:
        """Set the outcome of the event."""


class Sending(Protocol):
    """Span of an event that is being sent.

    *context* has the headers that carry the span's context to the consumers of the event.
    """

    context: list[tuple[str, bytes]]

    def sent(self, place: Place | None) -> None:
        """Set the position of the sent record; None means that it is sent later."""


class Tracing(Protocol):
    """Factory of spans."""

    def process(
        self, record: ConsumerRecord, event_type: str
    ) -> AbstractContextManager[Processing]:
        """Return the span of one processing of an event, until its end or its deferral.

        The span begins before decoding. *event_type* is the name on the wire, empty if the record
        has none.
        """

    def failed(self, error: BaseException, message: str) -> None:
        """Record *error* on the span of the event that is being processed.

        *message* describes it without quoting private data.
        """

    def send(
        self,
        topic: str,
        key: bytes | None,
        headers: Headers,
        own: Headers,
        *,
        is_tombstone: bool = False,
    ) -> AbstractContextManager[Sending]:
        """Return the span of the sending of a record.

        *own* are the headers given by the user. A trace context among them is kept.
        """

    def send_many(self, topic: str, count: int) -> AbstractContextManager[Sending]:
        """Return the span of the sending of *count* records in one call."""


def tracing_of(mode: Mode, kafka: KafkaConfig) -> Tracing | None:
    """Return the tracing for *mode*, None if there are to be no spans.

    With `link` the span of a processed event begins a trace and is linked to the sender's span.
    With `parent` it is a child of the sender's span, in the sender's trace. Both raise ConfigError
    when no tracer provider is set. `auto` is `link` if a provider is set, else `off`.
    """
    spans = otel(
        "famulus.observability.otel_tracing",
        "Worker.Tracing",
        mode,
        "tracer",
        has_provider=_has_provider(),
    )
    return None if spans is None else cast(Tracing, spans.Spans(kafka, is_parent=mode == "parent"))


def _has_provider() -> bool:
    """Return whether a tracer provider is set.

    Setting one imports `opentelemetry.trace`, so the check need not import it.
    """
    trace = cast(Any, sys.modules.get("opentelemetry.trace"))
    if trace is None:
        return False
    return not isinstance(
        trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    )
