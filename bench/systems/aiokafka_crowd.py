"""A bare loop: dicts as JSON, `send_and_wait`, without ids and headers, with the settings of our producer."""

import asyncio
import os

import orjson
from aiokafka import AIOKafkaProducer

from famulus.config import KafkaConfig
from famulus.producer.connection import Connection
from bench.crowded import crowd


async def main() -> None:
    """Time the crowds."""
    topic = os.environ["BENCH_TOPIC"]
    producer: AIOKafkaProducer = Connection(
        KafkaConfig(bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"])
    ).kafka
    async with producer:
        await crowd(
            lambda number, key: producer.send_and_wait(
                topic,
                orjson.dumps({"order_id": "order", "customer_id": key, "number": number}),
                key=key.encode(),
            )
        )


asyncio.run(main())
