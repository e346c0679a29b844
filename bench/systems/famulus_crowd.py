"""Publish events of their types from a plain script, many at once."""

import asyncio
import os

from app import EventBus
from famulus.config import KafkaConfig
from famulus.producer.producer import Producer
from bench.crowded import crowd
from famulus import Event


class Noted(Event, namespace="bench.Noted", topic=os.environ["BENCH_TOPIC"], key="customer_id"):
    """What is published."""

    order_id: str
    customer_id: str
    number: int


async def main() -> None:
    """Time the crowds."""
    producer = Producer(KafkaConfig(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"]))
    async with EventBus(producer) as bus:
        await crowd(
            lambda number, key: bus.publish(Noted(order_id="order", customer_id=key, number=number))
        )


asyncio.run(main())
