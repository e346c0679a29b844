"""CloudEvents and trace contexts through a real broker and a real worker."""

import asyncio

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from famulus.serialization.records import ProducerRecord, derived_id
from tests.support.on_kafka.house import House

MODELS = """
from famulus import Event


class Thing(Event, namespace="things.Thing", topic="things", key="key"):
    key: str
    number: int = 0
    note: str = ""


class Noted(Event, namespace="noted.Noted", topic="noted", key="key"):
    key: str
    correlation: str
    causation: str | None
"""
NOTING = """
from app import EventBus


@handles(Thing)
async def note(thing: Thing, delivery: Delivery, bus: EventBus) -> None:
    count[thing.key] += 1
    await bus.publish(
        Noted(key=thing.key, correlation=delivery.correlation_id, causation=delivery.causation_id)
    )
"""
PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
"""
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
JSON = b"application/cloudevents+json"


def read(house: House, topic: str, count: int) -> list[ConsumerRecord]:
    """The first records of a topic's only partition."""

    async def run() -> list[ConsumerRecord]:
        async with AIOKafkaConsumer(bootstrap_servers=house.kafka.bootstrap_servers) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.seek_to_beginning()
            return [await consumer.getone() for _ in range(count)]

    return asyncio.run(asyncio.wait_for(run(), 20))


def structured(house: House, identifier: str, key: str) -> ProducerRecord:
    """What another team's SDK sends."""
    event = CloudEvent(
        {"id": identifier, "source": "/shop", "type": "things.Thing", "specversion": "1.0"},
        {"key": key},
    )
    message = to_structured_event(event)
    headers = [*message.headers.items(), ("traceparent", PARENT)]
    return ProducerRecord(house.topic, key.encode(), message.value, headers)


def test_structured_events_are_handled_once_and_what_they_cause_is_read_by_the_sdk(
    house: House,
) -> None:
    """Ids, the chain, the trace context; a batch is a dead letter with its bytes and headers."""
    house.build(NOTING, models=MODELS)
    noted = house.kafka.topic("noted")
    house.make_topics(noted)
    worker = house.start()
    one, batch = (
        structured(house, "7", "a"),
        ProducerRecord(
            house.topic,
            b"b",
            b'[{"specversion":"1.0"}]',
            [("content-type", b"application/cloudevents-batch+json")],
        ),
    )
    house.send(one, one, batch, house.thing("c", event_id="9"))
    first, second = read(house, noted, 2)
    [letter] = read(house, f"{house.topic}.dead-letter", 1)
    assert (letter.value, letter.headers[: len(batch.headers)]) == (
        batch.value,
        tuple(batch.headers),
    )
    assert b"batch" in dict(letter.headers)["__streams.errors.message"]
    event = from_binary_event(KafkaMessage(dict(first.headers), first.key, first.value))
    assert (event.get_extension("causationid"), event.get_extension("correlationid")) == ("7", "7")
    assert event.get_id() == derived_id("/shop#7", "agents.things.note", 0)
    assert (event.get_source(), event.get_type(), event.get_subject()) == (
        house.group,
        "noted.Noted",
        "a",
    )
    assert event.get_data() == {"key": "a", "correlation": "7", "causation": None}
    assert dict(first.headers)["traceparent"] == PARENT
    assert "traceparent" not in dict(second.headers)
    house.wait_settled(4, worker)
    outcomes = house.outcomes(worker)
    assert (outcomes["handled"], outcomes["duplicate"], outcomes["dead_lettered"]) == (2, 1, 1)


def test_a_worker_whose_agents_set_a_provider_makes_spans(house: House) -> None:
    """Without a setting; what it publishes carries the span of sending."""
    house.build(NOTING + PROVIDER, models=MODELS)
    noted = house.kafka.topic("noted")
    house.make_topics(noted)
    worker = house.start()
    house.send(structured(house, "7", "a"))
    [record] = read(house, noted, 1)
    _, trace_id, span_id, _ = dict(record.headers)["traceparent"].decode().split("-")
    assert trace_id.encode() not in PARENT
    house.wait_log(worker, f"process {house.topic}")
    log = worker.log.read_text("utf-8", "replace")
    assert f"send {noted}" in log
    assert f"0x{span_id}" in log
    assert "0xb7ad6b7169203331" in log  # the link
