"""The least that a process can do which publishes: of BENCH_MADE dicts BENCH_PUBLISH, without ids and headers."""

import asyncio
import os

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from famulus.config import KafkaConfig
from famulus.producer.connection import Connection
from bench.meter import Meter


async def main() -> None:
    """Count the orders; those of a fetch are done when what they publish has left."""
    meter, made, published = (
        Meter(),
        int(os.environ["BENCH_MADE"]),
        int(os.environ["BENCH_PUBLISH"]),
    )
    servers, topic = os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["BENCH_PUBLISHED"]
    consumer = AIOKafkaConsumer(
        os.environ["BENCH_TOPIC"],
        bootstrap_servers=servers,
        group_id=os.environ["BENCH_GROUP"],
        auto_offset_reset="earliest",
    )
    # The same settings.
    producer: AIOKafkaProducer = Connection(KafkaConfig(bootstrap_servers=servers)).kafka
    async with consumer, producer:
        while meter.count < meter.events:
            sent = []
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                for record in records:
                    order = orjson.loads(record.value)
                    key = order["customer_id"].encode()
                    noted = [
                        {
                            "order_id": order["order_id"],
                            "customer_id": order["customer_id"],
                            "number": number,
                        }
                        for number in range(made)
                    ]
                    sent += [
                        await producer.send(topic, orjson.dumps(event), key=key)
                        for event in noted[:published]
                    ]
                    meter.hit(order["created_at"])
            await asyncio.gather(*sent)


asyncio.run(main())
