"""Spans by OpenTelemetry's conventions for messaging, 1.44 (which call themselves a development version).

`process TOPIC` (CONSUMER) is around an event in hand, with a link to the sender's span; `send
TOPIC` (PRODUCER) around an event that leaves, or many that leave together, whose context travels in
the events' headers, in the form of whichever propagators are set. Baggage that came with an event
goes on with those that it causes.
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
    """The span of an event in hand."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def ended(self, outcome: str) -> None:
        """What became of the event."""
        self._span.set_attribute("famulus.outcome", outcome)


class SpanSending:
    """The span of an event that leaves."""

    def __init__(self, span: Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(span))
        self.context = [(name, value.encode()) for name, value in carrier.items()]

    def sent(self, place: Place | None) -> None:
        """The cluster has it at *place*, or it leaves later."""
        if place is not None:
            self._span.set_attribute("messaging.destination.partition.id", str(place.partition))
            self._span.set_attribute("messaging.kafka.offset", place.offset)


# The span of the event in hand. OpenTelemetry's current one may be that of a handler.
_in_hand: ContextVar[Span] = ContextVar("span", default=INVALID_SPAN)


class Spans:
    """Makes the spans of one process.

    *is_parent*: an event's is a child of its sender's, not only linked to it.
    """

    def __init__(self, kafka: KafkaConfig, *, is_parent: bool) -> None:
        self._is_parent = is_parent
        self._tracer = trace.get_tracer("famulus", schema_url=SCHEMA_URL)
        self._common: Attributes = {"messaging.system": "kafka"}
        servers = kafka.bootstrap_servers.split(",")
        if len(servers) == 1:  # of several, which one it is depends on the partition
            host, _, port = servers[0].strip().rpartition(":")
            self._common |= {"server.address": host, "server.port": int(port)}
        self._group = kafka.consumer_config.group_id

    @contextmanager
    def process(self, record: ConsumerRecord, event_type: str) -> Iterator[SpanProcessing]:
        """Around one time that an event of *event_type*, if it says one, is in hand."""
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
        """What is in hand failed."""
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
        """Around the sending of a record."""
        links = _links(_extracted(own))
        attributes = self._attributes("send", topic, key, headers)
        if is_tombstone:
            attributes["messaging.kafka.message.tombstone"] = True
        # The former: another span made the event.
        kind = SpanKind.CLIENT if links else SpanKind.PRODUCER
        span = self._tracer.start_span(f"send {topic}", None, kind, attributes, links=links)
        with _around(span) as sending:
            yield sending

    @contextmanager
    def send_many(self, topic: str, count: int) -> Iterator[SpanSending]:
        """Around the sending of *count* records together."""
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
        _note(span, error, str(error))  # of ours, or Kafka's: it quotes nothing
        raise
    finally:
        span.end()


def _extracted(headers: Headers) -> Context:
    """What the sender says of its span, and its baggage."""
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
    """The key, if it is text."""
    try:
        return None if key is None else key.decode()
    except UnicodeDecodeError:
        return None
