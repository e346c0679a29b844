"""What is done to topics from outside: deleted, made anew, emptied, exchanged, written to by somebody else."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import ConsumerRecord

from famulus.config import KafkaConfig
from famulus.kafka.admin import admin_of, create_topics, partitions_of
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

T = TypeVar("T")
LIMIT_S = 30.0
LOOK_S = 0.1


def _with_admin(kafka: KafkaConfig, work: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with admin_of(kafka, LIMIT_S) as admin:
            return await work(admin)

    return asyncio.run(run())


def make(
    kafka: KafkaConfig, topics: Mapping[str, int], configs: Mapping[str, str] | None = None
) -> None:
    """Make those of *topics* (name -> partitions) that are missing, with *configs*."""
    asyncio.run(create_topics(kafka, topics, LIMIT_S, configs))


def delete(kafka: KafkaConfig, topic: str) -> None:
    """Delete a topic, and wait until the broker knows it no more."""

    async def work(admin: AIOKafkaAdminClient) -> None:
        await admin.delete_topics([topic])
        while await partitions_of(kafka, [topic], LIMIT_S):  # nobody tells
            await asyncio.sleep(LOOK_S)

    _with_admin(kafka, work)


def configs_of(kafka: KafkaConfig, topic: str) -> dict[str, str]:
    """How a topic is set where it differs from the broker's defaults."""

    async def work(admin: AIOKafkaAdminClient) -> dict[str, str]:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        topic_config = 1  # the source of a setting that is the topic's own
        return {
            str(name): str(value)
            for *_, entries in answer.resources
            for name, value, _, source, *_ in entries
            if source == topic_config
        }

    return _with_admin(kafka, work)


def set_configs(kafka: KafkaConfig, topic: str, configs: Mapping[str, str]) -> None:
    """Set a topic so, and everything else as the broker's defaults are; wait until brokers say so."""

    async def work(admin: AIOKafkaAdminClient) -> Any:
        return await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(configs))]
        )

    _with_admin(kafka, work)
    deadline = time.monotonic() + LIMIT_S
    while configs_of(kafka, topic) != dict(configs) and time.monotonic() < deadline:
        time.sleep(0.1)


def renew(kafka: KafkaConfig, topic: str) -> None:
    """Delete a topic and make it again as it was, without its records."""
    partitions = asyncio.run(partitions_of(kafka, [topic], LIMIT_S))
    configs = configs_of(kafka, topic)
    delete(kafka, topic)
    make(kafka, partitions, configs)


def empty(kafka: KafkaConfig, topic: str) -> None:
    """Delete all records of a topic that are there, as its retention would."""
    configs, ends = configs_of(kafka, topic), ends_of(kafka, topic)
    is_compacted = configs.get("cleanup.policy") == "compact"

    async def work(admin: AIOKafkaAdminClient) -> Any:
        return await admin.delete_records(
            {at: RecordsToDelete(before_offset=end) for at, end in ends.items()}
        )

    if is_compacted:  # of such a one nobody may delete any
        set_configs(kafka, topic, {**configs, "cleanup.policy": "delete"})
    _with_admin(kafka, work)
    if is_compacted:
        set_configs(kafka, topic, configs)


def add_partitions(kafka: KafkaConfig, topic: str, partitions: int) -> None:
    """Have a topic have that many partitions."""

    async def work(admin: AIOKafkaAdminClient) -> Any:
        return await admin.create_partitions({topic: NewPartitions(partitions)})

    _with_admin(kafka, work)


def ends_of(kafka: KafkaConfig, topic: str) -> dict[TopicPartition, int]:
    """Where each partition of a topic ends."""

    async def run() -> dict[TopicPartition, int]:
        there = await partitions_of(kafka, [topic], LIMIT_S)
        async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers) as consumer:
            places = [TopicPartition(topic, number) for number in range(there.get(topic, 0))]
            found: dict[TopicPartition, int] = await consumer.end_offsets(places)
            return found

    return asyncio.run(run())


def write(kafka: KafkaConfig, records: Sequence[ProducerRecord]) -> list[int]:
    """Write *records*, and say at which offsets they stand."""

    async def run() -> list[int]:
        async with Producer(kafka) as producer:
            return [published.offset for published in await producer.send_all(records)]

    return asyncio.run(run())


def read(kafka: KafkaConfig, places: Iterable[TopicPartition]) -> list[ConsumerRecord]:
    """All records of some partitions that are there."""

    async def run() -> list[ConsumerRecord]:
        found: list[ConsumerRecord] = []
        async with (
            asyncio.timeout(2 * LIMIT_S),
            AIOKafkaConsumer(
                bootstrap_servers=kafka.bootstrap_servers, auto_offset_reset="earliest"
            ) as consumer,
        ):
            wanted = list(places)
            consumer.assign(wanted)
            ends = await consumer.end_offsets(wanted)
            while any([await consumer.position(at) < ends[at] for at in wanted]):
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
        return found

    return asyncio.run(run())


def now_ms() -> int:
    """The time of a record that is written now."""
    return round(time.time() * 1000)


def moved(record: ConsumerRecord, partition: int) -> ProducerRecord:
    """The same record for another partition."""
    return ProducerRecord(
        record.topic, record.key, record.value, record.headers, partition, record.timestamp
    )
