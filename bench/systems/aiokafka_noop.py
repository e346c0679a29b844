"""The least a process can do: getmany, orjson, no validation, no order across commits, no retries."""

import asyncio
import os

import orjson
from aiokafka import AIOKafkaConsumer

from bench.meter import Meter


async def main() -> None:
    """Count them."""
    meter = Meter()
    consumer = AIOKafkaConsumer(
        os.environ["BENCH_TOPIC"],
        bootstrap_servers=os.environ["KAFKA_BOOTSTRAP_SERVERS"],
        group_id=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
    )
    async with consumer:
        while meter.count < meter.events:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    meter.hit(orjson.loads(record.value)["created_at"])


asyncio.run(main())
