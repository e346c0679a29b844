"""FastStream's `publish`, many at once, with the settings of our producer."""

import asyncio
import os

from faststream.kafka import KafkaBroker
from pydantic import BaseModel

from bench.crowded import crowd


class Noted(BaseModel):
    """What is published."""

    order_id: str
    customer_id: str
    number: int


async def main() -> None:
    """Time the crowds."""
    topic = os.environ["BENCH_TOPIC"]
    broker = KafkaBroker(
        os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        logger=None,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=5,
        max_batch_size=256 * 1024,
    )
    async with broker:
        await crowd(
            lambda number, key: broker.publish(
                Noted(order_id="order", customer_id=key, number=number),
                topic=topic,
                key=key.encode(),
            )
        )


asyncio.run(main())
