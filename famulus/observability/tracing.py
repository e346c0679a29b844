"""Whether there are spans: chosen once at the start, so that a worker without them pays nothing for them.

Here is what the engine and the bus ask for, and who decides. `spans` has what OpenTelemetry makes
of it, and is only imported if it is wanted: OpenTelemetry need not be installed.
"""

import sys
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, cast

from famulus.config import KafkaConfig
from famulus.observability.otel import otel
from famulus.serialization.records import ConsumerRecord, Headers

Mode = Literal["auto", "link", "parent", "off"]


class Place(Protocol):
    """Where a record stands."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offset(self) -> int:
        """Its offset."""


class Processing(Protocol):
    """The span of an event in hand."""

    def ended(self, outcome: str) -> None:
        """What became of the event."""


class Sending(Protocol):
    """The span of an event that leaves.

    *context*: the headers by which whoever reads it finds the span.
    """

    context: list[tuple[str, bytes]]

    def sent(self, place: Place | None) -> None:
        """The cluster has it at *place*, or it leaves later."""


class Tracing(Protocol):
    """Makes spans."""

    def process(
        self, record: ConsumerRecord, event_type: str
    ) -> AbstractContextManager[Processing]:
        """Around one time that an event is in hand, from decoding to its end, or to its next rest.

        *event_type* is its name on the wire, empty if it says none.
        """

    def failed(self, error: BaseException, message: str) -> None:
        """What is in hand failed. *message* says why and quotes nothing private."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        headers: Headers,
        own: Headers,
        *,
        is_tombstone: bool = False,
    ) -> AbstractContextManager[Sending]:
        """Around the sending of a record.

        *own* are headers of the user: a trace context among them stays.
        """

    def send_many(self, topic: str, count: int) -> AbstractContextManager[Sending]:
        """Around the sending of *count* records together."""


def tracing_of(mode: Mode, kafka: KafkaConfig) -> Tracing | None:
    """What makes the spans, None when nothing does.

    `auto`: if a tracer provider is set by now, with links. `link` and `parent` insist on one: the
    span of an event that is handled is linked to that of its sender, and begins a trace; or it is a
    child of it, in the sender's trace. Raises ConfigError for those when there is none.
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
    """Whether anybody has set one.

    Nobody can have without importing this module, which we do not for asking.
    """
    trace = cast(Any, sys.modules.get("opentelemetry.trace"))
    if trace is None:
        return False
    return not isinstance(
        trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    )
