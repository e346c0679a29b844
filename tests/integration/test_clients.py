"""Beside other clients: what one writes the others read, and all send a key to the same partition."""

import asyncio
import json
import os
import random
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from uuid import UUID

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

from famulus.config import KafkaConfig, ProducerConfig
from famulus.kafka.admin import create_topics
from famulus.processing.handlers import EventTypes
from famulus.producer.producer import Producer
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import event_id_of
from models.stock import StockReserved
from tests.integration.conftest import settings_of
from tests.support.on_kafka import java_client
from tests.support.places import PROJECT

PARTITIONS = 7
# As keys; Java's tool is told texts only.
TEXTS = ["", "4711", *("größe-漢字🙂"[:length] for length in range(1, 10))]
KEYS = [
    *(random.Random(7).randbytes(length) for length in range(1, 60)),
    *(text.encode() for text in TEXTS),
]
EVENT = StockReserved(order_id=UUID(int=1), product_id="part-1", quantity=2)
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
Records = dict[bytes, int]  # by key: the partition


@pytest.fixture
def topic(kafka: KafkaConfig) -> str:
    """A topic of seven partitions, as on the cluster."""
    asyncio.run(create_topics(kafka, {kafka.topic("shared"): PARTITIONS}, 30.0))
    return kafka.topic("shared")


def configured(kafka: KafkaConfig, **settings: object) -> KafkaConfig:
    """The settings with others of the producer."""
    return kafka.model_copy(update={"producer_config": ProducerConfig.model_validate(settings)})


async def by_us(kafka: KafkaConfig, partitioner: str) -> None:
    """Each key once, by our producer."""
    async with Producer(configured(kafka, partitioner=partitioner)) as producer:
        await producer.produce_many("shared", ((key, b"ours") for key in KEYS))


async def by_aiokafka(kafka: KafkaConfig, topic: str) -> None:
    """Each key once, by aiokafka with its defaults."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        await asyncio.gather(*[await producer.send(topic, b"aiokafka", key=key) for key in KEYS])


def by_librdkafka(kafka: KafkaConfig, topic: str, **settings: str) -> None:
    """Each key once, by the client that .NET's stands on."""
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.bootstrap_servers, **settings})
    for key in KEYS:
        producer.produce(topic, b"librdkafka", key=key)
    assert producer.flush(20) == 0


def by_java(kafka: KafkaConfig, topic: str, codec: str = "none") -> None:
    """Each key that is text once, by Kafka's own client with its defaults."""
    java_client.produce(
        kafka, topic, (java_client.Written(key, "java") for key in TEXTS), codec=codec
    )


async def read(kafka: KafkaConfig, topic: str, count: int) -> dict[bytes, Records]:
    """What the topic has, by its value and then by key: in which partition it stands."""
    found: dict[bytes, Records] = {}
    for record in await records_of(kafka, topic, count):
        found.setdefault(record.value, {})[record.key] = record.partition
    return found


async def records_of(kafka: KafkaConfig, topic: str, count: int) -> list[ConsumerRecord]:
    """The first *count* records that come of the topic."""
    async with AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    ) as consumer:
        return [await asyncio.wait_for(consumer.getone(), 20) for _ in range(count)]


async def test_murmur2_is_that_of_the_other_clients(kafka: KafkaConfig, topic: str) -> None:
    """Ours, aiokafka's default, Java's, and librdkafka's when it is told to do as Java does."""
    await by_us(kafka, "murmur2")
    await by_aiokafka(kafka, topic)
    await asyncio.to_thread(by_librdkafka, kafka, topic, partitioner="murmur2_random")
    await asyncio.to_thread(by_java, kafka, topic)
    found = await read(kafka, topic, 3 * len(KEYS) + len(TEXTS))
    assert found[b"ours"] == found[b"aiokafka"] == found[b"librdkafka"]
    assert found[b"java"] == {text.encode(): found[b"ours"][text.encode()] for text in TEXTS}
    by_java_s_consumer = await asyncio.to_thread(
        java_client.consume, kafka, topic, 3 * len(KEYS) + len(TEXTS)
    )
    assert {
        each.key: each.partition for each in by_java_s_consumer if each.value == b"ours"
    } == found[b"ours"]
    assert len(set(found[b"ours"].values())) == PARTITIONS


async def test_consistent_random_is_librdkafka_s_default(kafka: KafkaConfig, topic: str) -> None:
    """An empty key is none there, so it may go anywhere."""
    await by_us(kafka, "consistent_random")
    await asyncio.to_thread(by_librdkafka, kafka, topic)
    found = await read(kafka, topic, 2 * len(KEYS))
    for records in found.values():
        del records[b""]
    assert found[b"ours"] == found[b"librdkafka"]


@pytest.mark.parametrize("partitioner", ["murmur2", "consistent_random"])
async def test_records_without_a_key_are_spread(
    kafka: KafkaConfig, topic: str, partitioner: str
) -> None:
    """Over all partitions."""
    async with Producer(configured(kafka, partitioner=partitioner)) as producer:
        places = await producer.produce_many("shared", ((None, b"x") for _ in range(500)))
    assert {place.partition for place in places} == set(range(PARTITIONS))


@pytest.mark.parametrize("codec", CODECS)
async def test_a_codec_works_both_ways(kafka: KafkaConfig, topic: str, codec: str) -> None:
    """Ours is read by librdkafka and Java, theirs by aiokafka; nothing has to be installed for it."""
    value, headers = b"again and again " * 500, [("a", b"\xff"), ("a", b""), ("b", b"\\ \t")]
    async with Producer(configured(kafka, compression_type=codec)) as producer:
        place = await producer.produce("shared", "k", value, headers=headers)
        assert (place.partition, place.offset) == (place.partition, 0)
    theirs = await asyncio.to_thread(read_by_librdkafka, kafka, topic)
    assert (theirs.key(), theirs.value(), theirs.headers()) == (b"k", value, headers)
    [java_s] = await asyncio.to_thread(java_client.consume, kafka, topic, 1)
    assert java_s == (place.partition, headers, b"k", value)
    await asyncio.to_thread(by_librdkafka, kafka, topic, **{"compression.type": codec})
    await asyncio.to_thread(by_java, kafka, topic, codec)
    found = await read(kafka, topic, len(KEYS) + len(TEXTS) + 1)
    assert (len(found[b"librdkafka"]), len(found[b"java"])) == (len(KEYS), len(TEXTS))


async def test_cloud_events_come_through_java(kafka: KafkaConfig, topic: str) -> None:
    """The SDK knows ours as Java has read it, and we know what it writes, in both modes, when Java has sent it."""
    async with Producer(kafka) as producer:
        await producer.produce("shared", "part-1", EVENT)
    [ours] = await asyncio.to_thread(java_client.consume, kafka, topic, 1)
    assert ours.value is not None
    parsed = from_binary_event(
        KafkaMessage({name: value or b"" for name, value in ours.headers}, ours.key, ours.value)
    )
    data = json.loads(codec_of(StockReserved).encode(EVENT))
    assert (parsed.get_type(), parsed.get_subject(), parsed.get_data()) == (
        "stock.StockReserved",
        "part-1",
        data,
    )
    assert (ours.key, parsed.get_source()) == (b"part-1", kafka.consumer_config.group_id)
    attributes = {
        "id": "größe:7",
        "source": "/shop",
        "type": "stock.StockReserved",
        "specversion": "1.0",
    }
    written = [
        write(CloudEvent(attributes, data)) for write in (to_binary_event, to_structured_event)
    ]
    lines = [
        java_client.Written(
            "theirs", of.value.decode(), tuple((name, x.decode()) for name, x in of.headers.items())
        )
        for of in written
    ]
    await asyncio.to_thread(java_client.produce, kafka, topic, lines)
    records = [each for each in await records_of(kafka, topic, 3) if each.key == b"theirs"]
    assert {event_id_of(record) for record in records} == {"/shop#größe:7"}
    types = EventTypes("shared", [StockReserved])
    assert [types.decode(record) for record in records] == [EVENT, EVENT]


def read_by_librdkafka(kafka: KafkaConfig, topic: str) -> confluent_kafka.Message:
    """The first record of the topic."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": f"{topic}-librdkafka",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.assign(
            [confluent_kafka.TopicPartition(topic, number, 0) for number in range(PARTITIONS)]
        )
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        return message
    finally:
        consumer.close()


async def test_what_was_set_in_vain_is_said_once(
    kafka: KafkaConfig, caplog: pytest.LogCaptureFixture
) -> None:
    """One line at the start, for all of them; none where nothing was set."""
    caplog.set_level("INFO")
    async with Producer(configured(kafka, retries=3, max_in_flight=5)):
        pass
    async with Producer(kafka):
        pass
    [line] = [
        record.getMessage() for record in caplog.records if "no effect" in record.getMessage()
    ]
    assert (
        "Retries 3: sent again until DeliveryTimeoutMs (120000), uncounted; MaxInFlight 5: " in line
    )


async def test_the_key_report_reads_a_topic(kafka: KafkaConfig, topic: str, tmp_path: Path) -> None:
    """The command, as people and as programs see it; a topic that is not there is one line."""
    async with Producer(kafka) as producer:
        await producer.produce_many(
            "shared",
            (
                (b"orders", b'{"order_id":%d,"customer_id":"c%d"}' % (n, n % 300))
                for n in range(3_000)
            ),
        )
    command = [sys.executable, "-m", "faust", "-A", "app", "keys"]
    environment = {**os.environ, **settings_of(kafka, tmp_path)}

    async def said(*arguments: str) -> tuple[int, str, str]:
        ran = await asyncio.create_subprocess_exec(
            *command, *arguments, env=environment, cwd=PROJECT, stdout=PIPE, stderr=PIPE
        )
        output, errors = await ran.communicate()
        return ran.returncode or 0, output.decode(), errors.decode()

    code, output, errors = await said("shared", "--json", "--sample", "2000")
    assert (code, errors) == (0, "")
    found = [json.loads(line) for line in output.splitlines()]
    assert [(of["key"], of["verdict"]) for of in found] == [
        ("(present key)", "bad"),
        ("customer_id", "good"),
        ("order_id", "pointless"),
    ]
    assert (found[0]["events"], found[0]["keys"], found[1]["keys"]) == (2000, 1, 300)
    code, output, _ = await said("shared", "--field", "customer_id")
    assert code == 0
    assert all(word in output for word in ("customer_id", "good", "bad"))
    assert "order_id" not in output
    assert (await said("absent"))[0::2] == (
        78,
        f"Error: there is no topic {kafka.topic('absent')}\n",
    )
