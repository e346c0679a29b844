"""What the workload `produce` measures: `produce_many` beside a bare aiokafka producer, each with our settings."""

import asyncio
import time
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from bench import load
from bench.system import Result
from famulus.config import KafkaConfig
from famulus.kafka.admin import create_topics
from famulus.producer.connection import Connection
from famulus.producer.producer import Producer

Pairs = list[tuple[object, bytes | None]]
WARM = 1_000


async def produced(kafka: KafkaConfig, name: str, count: int) -> Result:
    """Send *count* orders to a new topic and wait until the cluster has all."""
    topic = f"produce-{uuid4().hex[:8]}"
    await create_topics(kafka, {topic: kafka.partitions}, 10)
    orders = (load.plain(topic, number) for number in range(count))
    pairs: Pairs = [(order.key, order.value) for order in orders]
    return await (_ours if name == "famulus" else _bare)(kafka, topic, pairs)


async def _ours(kafka: KafkaConfig, topic: str, pairs: Pairs) -> Result:
    async with Producer(kafka) as producer:
        await producer.produce_many(topic, pairs[:WARM])
        began_s, used_s = time.perf_counter(), time.process_time()
        await producer.produce_many(topic, pairs)
        return _result(len(pairs), began_s, used_s)


async def _bare(kafka: KafkaConfig, topic: str, pairs: Pairs) -> Result:
    producer: AIOKafkaProducer = Connection(kafka).kafka  # the same settings
    async with producer:
        await asyncio.gather(
            *[await producer.send(topic, value, key=key) for key, value in pairs[:WARM]]
        )
        began_s, used_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*[await producer.send(topic, value, key=key) for key, value in pairs])
        return _result(len(pairs), began_s, used_s)


def _result(count: int, began_s: float, used_s: float) -> Result:
    return {
        "events_per_second": count / (time.perf_counter() - began_s),
        "cpu_seconds_per_million": (time.process_time() - used_s) / count * 1_000_000,
    }
