"""Spans by OpenTelemetry's semantic conventions for messaging, version 1.44.

These conventions have the status of development. A span `process TOPIC` (CONSUMER) covers the
processing of an event and has a link to the sender's span. A span `send TOPIC` (PRODUCER) covers
the sending of one event or of many at once. Its context travels in the headers of the events, in
the format of the configured propagators. Baggage of an event is passed on to the events that it
causes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode

from famulus.config import KafkaConfig
from famulus.observability.tracing import Place
from famulus.serialization.records import ConsumerRecord, Headers, attributes_of

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
Attributes = dict[str, str | int | bool]


class SpanProcessing:
    """Span of an event that is being processed."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def ended(self, outcome: str) -> None:
        """Set the outcome of the event."""
        self._span.set_attribute("famulus.outcome", outcome)


class SpanSending:
    """Span of an event that is being sent."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        self.context = [(name, value.encode()) for name, value in carrier.items()]

    def sent(self, place: Place | None) -> None:
        """Set the position of the sent record; None means that it is sent later."""
        if place is not None:
            self._span.set_attribute("messaging.destination.partition.id", str(place.partition))
            self._span.set_attribute("messaging.kafka.offset", place.offset)


# Span of the event that is being processed. OpenTelemetry's current span may be one that a handler
# has started.
_in_hand: ContextVar[Span] = ContextVar("span", default=INVALID_SPAN)


class Spans:
    """Factory of the spans of one process.

    *is_parent*: the span of a processed event is a child of its sender's span, not only linked.
    """

    def __init__(self, kafka: KafkaConfig, *, is_parent: bool) -> None:
        self._is_parent = is_parent
        self._tracer = trace.get_tracer("famulus", schema_url=SCHEMA_URL)
        self._common: Attributes = {"messaging.system": "kafka"}
        servers = kafka.bootstrap_servers.split(",")
        if len(servers) == 1:  # of several brokers, the one in use depends on the partition
            host, _, port = servers[0].strip().rpartition(":")
            self._common |= {"server.address": host, "server.port": int(port)}
        self._group = kafka.consumer_config.group_id

    @contextmanager
    def process(self, record: ConsumerRecord, event_type: str) -> Iterator[SpanProcessing]:
        """Open the span of one processing of an event, see `Tracing.process`."""
        sender = _extracted(record.headers)
        context = sender if self._is_parent else trace.set_span_in_context(INVALID_SPAN, sender)
        attributes = self._attributes("process", record.topic, record.key, attributes_of(record))
        attributes |= {
            "messaging.consumer.group.name": self._group,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
        }
        if event_type:
            attributes["cloudevents.event_type"] = event_type
        if record.value is None:
            attributes["messaging.kafka.message.tombstone"] = True
        span = self._tracer.start_span(
            f"process {record.topic}", context, SpanKind.CONSUMER, attributes, links=_links(sender)
        )
        current = attach(trace.set_span_in_context(span, context))
        before = _in_hand.set(span)
        try:
            yield SpanProcessing(span)
        finally:
            _in_hand.reset(before)
            detach(current)
            span.end()

    def failed(self, error: BaseException, message: str) -> None:
        """Record *error* on the span of the event that is being processed."""
        _note(_in_hand.get(), error, message)

    @contextmanager
    def send(
        self,
        topic: str,
        key: bytes | None,
        headers: Headers,
        own: Headers,
        *,
        is_tombstone: bool = False,
    ) -> Iterator[SpanSending]:
        """Open the span of the sending of a record, see `Tracing.send`."""
        links = _links(_extracted(own))
        attributes = self._attributes("send", topic, key, headers)
        if is_tombstone:
            attributes["messaging.kafka.message.tombstone"] = True
        # CLIENT, since another span created the event: its context is among the user's headers.
        kind = SpanKind.CLIENT if links else SpanKind.PRODUCER
        span = self._tracer.start_span(f"send {topic}", None, kind, attributes, links=links)
        with _around(span) as sending:
            yield sending

    @contextmanager
    def send_many(self, topic: str, count: int) -> Iterator[SpanSending]:
        """Open the span of the sending of *count* records in one call."""
        attributes = {
            **self._attributes("send", topic, None, ()),
            "messaging.batch.message_count": count,
        }
        span = self._tracer.start_span(f"send {topic}", None, SpanKind.PRODUCER, attributes)
        with _around(span) as sending:
            yield sending

    def _attributes(
        self, operation: str, topic: str, key: bytes | None, headers: Headers
    ) -> Attributes:
        attributes: Attributes = {
            **self._common,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": topic,
        }
        text = _text(key)
        if text is not None:
            attributes["messaging.kafka.message.key"] = text
        for name, value in headers:
            if name == "ce_id":
                attributes["messaging.message.id"] = (value or b"").decode("utf-8", "replace")
            elif name == "ce_type":
                attributes["cloudevents.event_type"] = (value or b"").decode("utf-8", "replace")
            elif name == "ce_correlationid":
                attributes["messaging.message.conversation_id"] = (value or b"").decode(
                    "utf-8", "replace"
                )
        return attributes


@contextmanager
def _around(span: Span) -> Iterator[SpanSending]:
    try:
        yield SpanSending(span)
    except Exception as error:
        _note(span, error, str(error))  # errors of the engine and of Kafka quote no event
        raise
    finally:
        span.end()


def _extracted(headers: Headers) -> Context:
    """Return the sender's span context and baggage."""
    fields = propagate.get_global_textmap().fields
    carrier = {
        name: (value or b"").decode("utf-8", "replace") for name, value in headers if name in fields
    }
    return propagate.extract(carrier, Context()) if carrier else Context()


def _links(context: Context) -> list[Link]:
    span_context = trace.get_current_span(context).get_span_context()
    return [Link(span_context)] if span_context.is_valid else []


def _note(span: Span, error: BaseException, message: str) -> None:
    of = type(error)
    name = of.__qualname__ if of.__module__ == "builtins" else f"{of.__module__}.{of.__qualname__}"
    span.set_attribute("error.type", name)
    span.add_event("exception", {"exception.type": name, "exception.message": message})
    span.set_status(Status(StatusCode.ERROR, message))


def _text(key: bytes | None) -> str | None:
    """Return the key as text, None if it is not UTF-8."""
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None
