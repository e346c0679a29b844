"""Tests of spans by OpenTelemetry's SDK: their attributes and links, and when there are none."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from famulus.config import KafkaConfig
from famulus.errors import ConfigError, PermanentError, TransientError
from famulus.observability.tracing import tracing_of
from famulus.processing.traced_pipeline import TracedPipeline, traced
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.results import Published, PublishError
from famulus.serialization.key_text import key_bytes
from famulus.serialization.records import ProducerRecord
from famulus.state.unit_of_work import current_attempt
from models.stock import StockReserved
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Do, Trial, Try, trials

KAFKA = KafkaConfig(bootstrap_servers="kafka1:9092")
TRACE_ID, SPAN_ID = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = [("traceparent", PARENT), ("tracestate", b"a=b"), ("baggage", b"k=v")]
Make = Callable[..., Trial]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def start(trial: Trial, do: Do, mode: Any = "auto", **policy: Any) -> EventBus:
    """Start a trial with tracing, whose one handler is *do*."""
    tracing = tracing_of(mode, KAFKA)
    assert tracing is not None
    trial.pipeline = traced(trial.pipeline, tracing)
    trial.handler("do", do, **policy)
    trial.start()
    bus = EventBus(Producer(KAFKA), current_attempt)
    bus.tracing = tracing
    return bus


def arrive(
    trial: Trial, event: str = "k:x", *headers: tuple[str, bytes], value: bytes | None = b""
) -> None:
    """Let an event arrive that has *headers* in addition to its own."""
    trial.feed(event, values={"x": value} if value != b"" else None)
    trial.source[-1].headers += headers


def named(exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """Return the finished spans of that name."""
    return [span for span in exporter.get_finished_spans() if span.name == name]


def said(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes of *span*."""
    return dict(span.attributes or MappingProxyType({}))


def context_of(span: ReadableSpan) -> trace.SpanContext:
    """Return the span's context, which other spans refer to."""
    context: trace.SpanContext | None = span.get_span_context()
    assert context is not None
    return context


async def nothing(event: Try) -> None:
    """Do nothing."""


async def test_a_span_for_an_event_in_hand(make: Make, exporter: InMemorySpanExporter) -> None:
    """The span has the attributes of the semantic conventions and a link to the sender's span.

    Its trace is a new one, because the mode `auto` does not make the sender its parent.
    """
    trial = make()
    start(trial, nothing)
    arrive(trial, "k:x", *TRACE, ("ce_correlationid", b"first"))
    await trial.settled(1)
    [span] = named(exporter, "process t")
    assert span.kind is SpanKind.CONSUMER
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert said(span) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "t",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "famulus",
        "messaging.kafka.offset": 0,
        "messaging.kafka.message.key": "k",
        "messaging.message.id": "k:x",
        "messaging.message.conversation_id": "first",
        "server.address": "kafka1",
        "server.port": 9092,
        "famulus.outcome": "handled",
        "cloudevents.event_type": "test.Try",
    }
    [link] = span.links
    assert (link.context.trace_id, link.context.span_id) == (TRACE_ID, SPAN_ID)
    assert span.parent is None
    assert context_of(span).trace_id != TRACE_ID


async def test_the_sender_may_be_the_parent(make: Make, exporter: InMemorySpanExporter) -> None:
    """The mode `parent` asks for this."""
    trial = make()
    start(trial, nothing, "parent")
    arrive(trial, "k:x", *TRACE)
    await trial.settled(1)
    [span] = named(exporter, "process t")
    assert span.parent is not None
    assert (context_of(span).trace_id, span.parent.span_id) == (TRACE_ID, SPAN_ID)


async def test_what_a_handler_publishes_carries_its_span(
    make: Make, exporter: InMemorySpanExporter
) -> None:
    """The span of sending is a child of the span of handling.

    A trace context that the handler sets itself is not overwritten.
    """
    trial = make()
    seen: list[object] = []

    async def do(event: Try) -> None:
        seen.append(baggage.get_baggage("k"))
        await bus.publish(event)
        await bus.publish(event, headers=TRACE[:1])

    bus = start(trial, do)
    arrive(trial, "k:x", *TRACE)
    await trial.settled(1)
    [process] = named(exporter, "process t")
    first, second = named(exporter, "send t")
    assert (first.kind, second.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT)
    for send in (first, second):
        assert send.parent is not None
        assert send.parent.span_id == context_of(process).span_id
    handed_on, own = (dict(record.headers) for record in trial.sent)
    assert handed_on["traceparent"].decode().split("-")[1:3] == [
        f"{context_of(first).trace_id:032x}",
        f"{context_of(first).span_id:016x}",
    ]
    assert "tracestate" not in handed_on  # it belongs to the sender's trace
    assert (handed_on["baggage"], own["baggage"], seen) == (b"k=v", b"k=v", ["v"])
    assert own["traceparent"] == PARENT
    assert said(first)["messaging.message.id"] == handed_on["ce_id"].decode()
    assert [link.context.span_id for link in second.links] == [SPAN_ID]


async def test_a_reply_carries_its_span(make: Make, exporter: InMemorySpanExporter) -> None:
    """The requester finds the reply's span below the span that handled the request."""
    trial = make()

    async def do(event: Try) -> None:
        await bus.reply(event)

    bus = start(trial, do)
    arrive(trial, "k:x", *TRACE, ("ce_replytopic", b"web.replies"), ("ce_replypartition", b"3"))
    await trial.settled(1)
    [process], [send] = named(exporter, "process t"), named(exporter, "send web.replies")
    assert send.kind is SpanKind.PRODUCER
    assert send.parent is not None
    assert send.parent.span_id == context_of(process).span_id
    [reply] = trial.sent
    headers = dict(reply.headers)
    assert headers["traceparent"].decode().split("-")[2] == f"{context_of(send).span_id:016x}"
    assert said(send)["messaging.message.id"] == headers["ce_id"].decode()
    assert (
        said(send)["messaging.message.conversation_id"] == said(send)["messaging.kafka.message.key"]
    )


async def test_each_attempt_has_a_span_that_says_why_it_failed(
    make: Make, exporter: InMemorySpanExporter
) -> None:
    """The span quotes nothing of the event."""
    trial = make()

    async def do(event: Try) -> None:
        raise TransientError(f"no {event.name}")

    start(trial, do)
    arrive(trial, "k:a secret name")
    await trial.settled(1)
    spans = named(exporter, "process t")
    assert [said(span)["famulus.outcome"] for span in spans] == ["rests", "rests", "dead_lettered"]
    for span in spans:
        assert said(span)["error.type"] == "famulus.errors.TransientError"
        assert span.status.status_code is StatusCode.ERROR
        assert "secret" not in str(span.status.description)
        assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize(
    ("value", "error", "is_tombstone"),
    [(b"{", "famulus.errors.DecodeError", False), (None, "famulus.errors.DecodeError", True)],
)
async def test_poison_has_a_span(
    make: Make,
    exporter: InMemorySpanExporter,
    value: bytes | None,
    error: str,
    *,
    is_tombstone: bool,
) -> None:
    trial = make()
    start(trial, nothing)
    arrive(trial, "k:x", *TRACE, value=value)
    await trial.settled(1)
    [span] = named(exporter, "process t")
    assert (said(span)["error.type"], said(span)["famulus.outcome"]) == (error, "dead_lettered")
    assert said(span).get("messaging.kafka.message.tombstone", False) is is_tombstone
    assert len(span.links) == 1


async def test_a_duplicate_and_a_rejected_event_say_so(
    make: Make, exporter: InMemorySpanExporter
) -> None:
    """A duplicate has no error type."""
    trial = make()

    async def do(event: Try) -> None:
        if event.name == "bad":
            raise PermanentError("no")

    start(trial, do)
    trial.feed("k:x", "k:x", "k:bad")
    await trial.settled(3)
    outcomes = [
        (said(s)["famulus.outcome"], said(s).get("error.type"))
        for s in named(exporter, "process t")
    ]
    assert outcomes == [
        ("handled", None),
        ("duplicate", None),
        ("dead_lettered", "famulus.errors.PermanentError"),
    ]


class Cluster:
    """A substitute for a connected producer."""

    settings = KAFKA

    def __init__(self) -> None:
        self.sent: list[dict[str, bytes]] = []
        self.fault: Exception | None = None

    def new_headers(self, event: Any) -> list[tuple[str, bytes]]:
        """Return the headers of every event."""
        return [("ce_id", b"1")]

    async def send_event(self, topic: str, key: object, event: Any, headers: Any) -> Published:
        """Record the headers of the event, or raise `fault` if it is set."""
        del event
        if self.fault is not None:
            raise self.fault
        record = ProducerRecord(topic, key_bytes(key), b"", headers)
        self.sent.append(dict(record.headers))
        return Published(record.topic, 3, 42, 0)


async def test_sending_outside_a_handler_has_a_span_as_long_as_it_takes(
    exporter: InMemorySpanExporter,
) -> None:
    """The span states where the event went, or the error."""
    cluster: Any = Cluster()
    bus = EventBus(cluster)
    bus.tracing = tracing_of("link", KAFKA)
    event = StockReserved(order_id="1", product_id="part-1", quantity=1)  # type: ignore[arg-type]
    await bus.publish(event)
    cluster.fault = PublishError("away")
    with pytest.raises(PublishError):
        await bus.publish(event)
    sent, failed = named(exporter, "send stock-events")
    assert said(sent)["messaging.destination.partition.id"] == "3"
    assert (said(sent)["messaging.kafka.offset"], said(sent)["messaging.kafka.message.key"]) == (
        42,
        "part-1",
    )
    assert f"{context_of(sent).span_id:016x}" in cluster.sent[0]["traceparent"].decode()
    assert said(failed)["error.type"] == "famulus.producer.results.PublishError"
    assert failed.status.status_code is StatusCode.ERROR


async def test_a_provider_that_samples_nothing_breaks_no_trace(
    make: Make, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event's own trace context is passed on when no span can replace it."""
    monkeypatch.setattr(TracerProvider, "get_tracer", trace.NoOpTracerProvider().get_tracer)
    trial = make()

    async def do(event: Try) -> None:
        await bus.publish(event)

    bus = start(trial, do)
    arrive(trial, "k:x", *TRACE[:2])
    await trial.settled(1)
    assert dict(trial.sent[0].headers)["traceparent"] == PARENT


def test_there_are_no_spans_unless_somebody_set_a_provider(
    exporter: InMemorySpanExporter, monkeypatch: Any
) -> None:
    """Without a provider the pipeline stays the plain one.

    A worker whose mode requires spans does not start.
    """
    assert tracing_of("auto", KAFKA) is not None
    assert tracing_of("off", KAFKA) is None
    plain: Any = SimpleNamespace()
    assert traced(plain, None) is plain
    assert not issubclass(type(plain), TracedPipeline)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    assert tracing_of("auto", KAFKA) is None
    with pytest.raises(ConfigError, match="no tracer provider"):
        tracing_of("link", KAFKA)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "famulus.observability.otel_tracing")
    with pytest.raises(ConfigError, match="otel"):
        tracing_of("parent", KAFKA)


def test_nothing_imports_opentelemetry_by_itself() -> None:
    """OpenTelemetry is an optional dependency."""
    script = (
        "import sys; sys.modules['opentelemetry'] = None; import app; assert "
        "app.app.bus.tracing is None"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
