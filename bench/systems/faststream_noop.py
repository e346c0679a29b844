"""FastStream as its documentation has it: a subscriber of validated models, on aiokafka."""

import asyncio
import os

from faststream import FastStream
from faststream.kafka import KafkaBroker
from pydantic import BaseModel

from bench.meter import Meter


class Line(BaseModel):
    """A line of an order."""

    product_id: str
    quantity: int
    price: float


class BenchOrder(BaseModel):
    """The measured order."""

    order_id: str
    customer_id: str
    total_amount: float
    created_at: str
    items: list[Line]


meter = Meter()
broker = KafkaBroker(os.environ["KAFKA_BOOTSTRAP_SERVERS"], logger=None)


@broker.subscriber(
    os.environ["BENCH_TOPIC"], group_id=os.environ["BENCH_GROUP"], auto_offset_reset="earliest"
)
async def handle(order: BenchOrder) -> None:
    """Count it."""
    meter.hit(order.created_at)


asyncio.run(FastStream(broker, logger=None).run())
