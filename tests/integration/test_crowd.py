"""Publishing in a crowd on a real broker: order, batches as the log has them, room, cancelled calls, a broker away."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from aiokafka.record.memory_records import MemoryRecords
from confluent_kafka import Consumer, TopicPartition

from famulus.config import KafkaConfig, ProducerConfig
from famulus.dev.broker import Broker
from famulus.kafka.admin import create_topics
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.results import NotAcknowledgedError, Published, PublishError
from models.stock import StockReserved

PARTITIONS = 2
KEYS = 50
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker whose log can be looked at."""
    with Broker() as broker:
        yield broker


def settings(broker: Broker, **producer: object) -> KafkaConfig:
    """A producer of its own kind."""
    config = ProducerConfig.model_validate(producer)
    return KafkaConfig(bootstrap_servers=broker.bootstrap_servers, producer_config=config)


async def make(kafka: KafkaConfig, partitions: int = PARTITIONS) -> str:
    """A new topic."""
    topic = f"crowd-{uuid4().hex[:8]}"
    await create_topics(kafka, {topic: partitions}, 30.0)
    return topic


def logged(
    kafka: KafkaConfig, topic: str, partitions: int = PARTITIONS
) -> list[list[tuple[bytes, bytes]]]:
    """The keys and values of a topic, by partition, as another client reads them."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "a look",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    found: list[list[tuple[bytes, bytes]]] = []
    for partition in range(partitions):
        consumer.assign([TopicPartition(topic, partition, 0)])
        rows: list[tuple[bytes, bytes]] = []
        while (message := consumer.poll(10)) is not None and message.error() is None:
            rows.append((message.key() or b"", message.value() or b""))
        found.append(rows)
    consumer.close()
    return found


def batches(broker: Broker, topic: str, partition: int = 0) -> list[tuple[int, int]]:
    """The batches of a partition as its log has them: how many records, how many bytes."""
    found = []
    [segment] = (broker.nodes[0].folder / "log" / f"{topic}-{partition}").glob("*.log")
    records = MemoryRecords(segment.read_bytes())
    while (batch := records.next_batch()) is not None:
        sizes = [len(record.value) for record in batch]
        found.append((len(sizes), sum(sizes)))
    return found


async def test_the_order_of_the_calls_is_that_of_the_log(broker: Broker) -> None:
    """Per key, whoever calls: the producer and the bus, events and bytes; and each is told where its record stands."""
    kafka = settings(broker)
    await create_topics(kafka, {"stock-events": PARTITIONS}, 30.0)
    async with Producer(kafka) as producer:
        bus = EventBus(producer)
        calls = []
        for number in range(5_000):
            key = UUID(int=number % KEYS)
            if number % 3:
                calls.append(producer.produce("stock-events", key, b"%d" % number))
            else:
                event = StockReserved(order_id=key, product_id=str(number), quantity=1)
                # Which returns nothing.
                calls.append(bus.publish(event, key=key))  # type: ignore[arg-type]
        places = await asyncio.gather(*calls)
    by_key = defaultdict(list)
    rows = logged(kafka, "stock-events")
    for partition in rows:
        for name, value in partition:
            said = value if value.isdigit() else json.loads(value)["product_id"]
            by_key[name].append(int(said))
    assert len(by_key) == KEYS
    assert all(numbers == sorted(numbers) for numbers in by_key.values())
    assert sum(map(len, by_key.values())) == 5_000
    for place_of, place in enumerate(places):
        if place is not None:
            assert rows[place.partition][place.offset][1] == b"%d" % place_of


async def test_calls_that_are_under_way_share_batches(broker: Broker) -> None:
    """One batch for all that fits into `BatchSize`, when they come within `LingerMs`."""
    kafka = settings(broker, linger_ms=1_000, batch_size=16_384, compression_type="none")
    topic = await make(kafka, 1)
    async with Producer(kafka) as producer:
        await asyncio.gather(
            *(producer.produce(topic, f"k{n % KEYS}", b"x" * 100) for n in range(50))
        )
        assert [count for count, _ in batches(broker, topic)] == [50]
        await asyncio.gather(
            *(producer.produce(topic, f"k{n % KEYS}", b"x" * 1_000) for n in range(160))
        )
    [_, *full, _last] = batches(broker, topic)
    assert all(13_000 < size <= 16_384 for _, size in full)


async def test_a_call_waits_for_company_as_long_as_linger_says(broker: Broker) -> None:
    """Those that come one after the other share a batch with a long `LingerMs`, and have their own without one."""
    for linger_ms, wanted in ((2_000, [3]), (0, [1, 1, 1])):
        kafka = settings(broker, linger_ms=linger_ms)
        topic = await make(kafka, 1)
        async with Producer(kafka) as producer:
            calls = []
            for _ in range(3):
                calls.append(asyncio.create_task(producer.produce(topic, "k", b"x")))
                await asyncio.sleep(0.3)
            await asyncio.gather(*calls)
        assert [count for count, _ in batches(broker, topic)] == wanted


async def test_little_room_is_enough_for_all(broker: Broker) -> None:
    """Calls wait for room, in their order, and what waits to be sent is never much more than that."""
    kafka = settings(broker, buffer_memory=64 * 1024)
    topic = await make(kafka)
    async with Producer(kafka) as producer:
        room, most = producer._together._route.memory, 0

        async def watched(number: int) -> Published:
            nonlocal most
            place = await producer.produce(
                topic, f"k{number % KEYS}", b"%06d" % number + b"x" * 500
            )
            most = max(most, room.used)
            return place

        await asyncio.gather(*(watched(number) for number in range(3_000)))
        assert room.used == 0
    assert most < 80 * 1024
    for partition in logged(kafka, topic):
        by_key = defaultdict(list)
        for key, value in partition:
            by_key[key].append(value)
        assert all(values == sorted(values) for values in by_key.values())
    assert sum(map(len, logged(kafka, topic))) == 3_000


async def test_a_cancelled_call_leaves_nothing_half_done(broker: Broker) -> None:
    """What is cancelled while it waits for company is not sent, and holds up nobody."""
    kafka = settings(broker, linger_ms=500)
    topic = await make(kafka)
    async with Producer(kafka) as producer:
        await producer.produce(topic, "k", b"first")
        calls = [
            asyncio.create_task(producer.produce(topic, f"k{n}", b"%d" % n)) for n in range(1_000)
        ]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert producer._together._route.memory.used == 0
    found = sorted(
        int(value) for part in logged(kafka, topic) for _, value in part if value != b"first"
    )
    assert found == list(range(1, 1_000, 2))


async def test_a_record_that_is_refused_is_told_alone(broker: Broker) -> None:
    """Those beside it in its batch are there, in their order."""
    kafka = settings(broker, linger_ms=200)
    topic = await make(kafka, 1)
    async with Producer(kafka) as producer:
        calls = [
            producer.produce(topic, "k", b"%d" % n, timestamp_ms=10**14 if n == 7 else None)
            for n in range(20)
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [number for number, each in enumerate(outcomes) if isinstance(each, PublishError)] == [7]
    assert [int(value) for _, value in logged(kafka, topic, 1)[0]] == [
        n for n in range(20) if n != 7
    ]


async def test_a_broker_that_is_away_is_told_to_all_and_the_next_are_sent(broker: Broker) -> None:
    """Those on their way may be sent, those behind them are not; then it goes on."""
    kafka = settings(broker, delivery_timeout_ms=3_000, batch_size=4_096)
    topic = await make(kafka)
    async with Producer(kafka) as producer:
        await producer.produce(topic, "k", b"first")
        broker.nodes[0].pause()
        try:
            calls = (
                producer.produce(topic, f"k{n % KEYS}", b"%d" % n + b"x" * 100) for n in range(500)
            )
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            broker.nodes[0].resume()
        assert all(isinstance(each, NotAcknowledgedError) for each in outcomes)
        assert {
            each.may_be_sent for each in outcomes if isinstance(each, NotAcknowledgedError)
        } == {
            True,
            False,
        }
        async with asyncio.timeout(LIMIT_S):
            while True:
                after = (producer.produce(topic, f"k{n % KEYS}", b"after") for n in range(500))
                if not any(
                    isinstance(each, PublishError)
                    for each in await asyncio.gather(*after, return_exceptions=True)
                ):
                    break
        assert producer._together._route.memory.used == 0
    found = [value for part in logged(kafka, topic) for _, value in part]
    sent = {b"%d" % n + b"x" * 100 for n, each in enumerate(outcomes) if each.may_be_sent}  # type: ignore[union-attr]
    assert {value for value in found if value not in {b"first", b"after"}} <= sent


async def test_a_stop_while_calls_are_under_way_has_them_leave(broker: Broker) -> None:
    """Without waiting for company."""
    kafka = settings(broker, linger_ms=10_000)
    topic = await make(kafka)
    async with Producer(kafka) as producer:
        calls = [
            asyncio.create_task(producer.produce(topic, f"k{n % KEYS}", b"%d" % n))
            for n in range(1_000)
        ]
        await asyncio.sleep(0.1)
    places = await asyncio.gather(*calls)
    assert len(places) == sum(map(len, logged(kafka, topic))) == 1_000
