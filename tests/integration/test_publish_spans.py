"""Spans of the direct producer on the real broker: they say where records are, and readers find them."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from famulus.config import KafkaConfig, ProducerConfig
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.results import Published, RecordTooLargeError
from models.stock import StockReserved

EVENT = StockReserved(order_id=UUID(int=1), product_id="part-1", quantity=2)
PARENT = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@pytest.fixture
def topic(kafka: KafkaConfig, make_topics: Callable[..., None]) -> str:
    """The topic of the event, as on the cluster."""
    make_topics("stock-events")
    return kafka.topic("stock-events")


async def headers_at(kafka: KafkaConfig, places: Sequence[Published]) -> list[dict[str, bytes]]:
    """The headers of the records at *places*."""
    found = []
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, enable_auto_commit=False
    ) as consumer:
        for topic, partition, offset, _ in places:
            place = TopicPartition(topic, partition)
            consumer.assign([place])
            consumer.seek(place, offset)
            found.append(dict((await consumer.getone()).headers))
    return found


def said(span: ReadableSpan) -> dict[str, Any]:
    """Its attributes."""
    return dict(span.attributes or MappingProxyType({}))


def span_id(span: ReadableSpan) -> str:
    """By which readers find it."""
    context: trace.SpanContext | None = span.get_span_context()
    assert context is not None
    return f"{context.span_id:016x}"


def span_carried(headers: dict[str, bytes]) -> str | None:
    """The id of the span that a record names, None when it names none."""
    return headers["traceparent"].decode().split("-")[2] if "traceparent" in headers else None


async def test_each_record_has_a_span_and_events_carry_it(
    kafka: KafkaConfig, topic: str, exporter: InMemorySpanExporter
) -> None:
    """Bytes and tombstones are sent as they are.

    A context that the user gives stays, and is linked to.
    """
    async with Producer(kafka) as producer:
        places = [
            await producer.produce("stock-events", "part-1", EVENT),
            await producer.produce("stock-events", "part-1", EVENT, headers=[("a", b"b"), PARENT]),
            await producer.produce("stock-events", "part-1", b"x"),
            await producer.produce("stock-events", "part-1", None),
        ]
    spans, headers = exporter.get_finished_spans(), await headers_at(kafka, places)
    assert [span.name for span in spans] == [f"send {topic}"] * 4
    assert [span.kind for span in spans] == [
        SpanKind.PRODUCER,
        SpanKind.CLIENT,
        SpanKind.PRODUCER,
        SpanKind.PRODUCER,
    ]
    assert [span_carried(of) for of in headers] == [
        span_id(spans[0]),
        "b7ad6b7169203331",
        None,
        None,
    ]
    assert headers[1] == {"a": b"b", "traceparent": PARENT[1]}
    assert len(spans[1].links) == 1
    host, _, port = kafka.bootstrap_servers.rpartition(":")
    assert said(spans[0]) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
        "cloudevents.event_type": "stock.StockReserved",
        "messaging.destination.partition.id": str(places[0].partition),
        "messaging.kafka.offset": places[0].offset,
        "messaging.kafka.message.key": "part-1",
        "messaging.message.id": headers[0]["ce_id"].decode(),
        "messaging.message.conversation_id": headers[0]["ce_correlationid"].decode(),
        "server.address": host,
        "server.port": int(port),
    }
    assert [said(span).get("messaging.kafka.message.tombstone", False) for span in spans] == [
        False,
        False,
        False,
        True,
    ]


async def test_many_records_share_a_span(
    kafka: KafkaConfig, topic: str, exporter: InMemorySpanExporter
) -> None:
    """It says how many they are, and what was wrong; events among them carry it."""
    small = kafka.model_copy(update={"producer_config": ProducerConfig(max_request_size=2_000)})
    async with Producer(small) as producer:
        places = await producer.produce_many(
            "stock-events",
            [("a", EVENT), ("b", b"x"), ("c", EVENT, [PARENT]), ("d", EVENT, [("own", b"1")])],
        )
        with pytest.raises(RecordTooLargeError):
            await producer.produce_many("stock-events", [("a", b"x" * 2_000)])
    sent, failed = exporter.get_finished_spans()
    assert (sent.name, sent.kind) == (f"send {topic}", SpanKind.PRODUCER)
    assert said(sent)["messaging.batch.message_count"] == 4
    headers = await headers_at(kafka, places)
    assert [span_carried(of) for of in headers] == [
        span_id(sent),
        None,
        "b7ad6b7169203331",
        span_id(sent),
    ]
    assert (failed.status.status_code, said(failed)["error.type"]) == (
        StatusCode.ERROR,
        "famulus.producer.results.RecordTooLargeError",
    )


@pytest.mark.usefixtures("topic")
async def test_the_bus_and_its_producer_make_one_span(
    kafka: KafkaConfig, exporter: InMemorySpanExporter
) -> None:
    """Not one each."""
    async with Producer(kafka) as producer, EventBus(producer) as bus:
        await bus.publish(EVENT)
    assert len(exporter.get_finished_spans()) == 1


@pytest.mark.usefixtures("topic")
async def test_without_a_provider_nothing_is_added(kafka: KafkaConfig) -> None:
    """Neither spans nor headers."""
    async with Producer(kafka) as producer:
        assert producer.tracing is None
        place = await producer.produce("stock-events", "part-1", EVENT)
    [headers] = await headers_at(kafka, [place])
    assert "traceparent" not in headers
