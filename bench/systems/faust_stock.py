"""Stock Faust as its documentation has it: an agent over typed Records."""

import os

import faust

from bench.meter import Meter


class Line(faust.Record):
    """A line of an order."""

    product_id: str
    quantity: int
    price: float


class Order(faust.Record):
    """An order."""

    order_id: str
    customer_id: str
    total_amount: float
    created_at: str
    items: list[Line]


meter = Meter()
app = faust.App(
    os.environ["BENCH_GROUP"], broker=f"kafka://{os.environ['KAFKA_BOOTSTRAP_SERVERS']}", web_enabled=False,
    topic_disable_leader=True, consumer_auto_offset_reset="earliest", datadir=os.environ["BENCH_DIR"],
)  # fmt: skip
topic = app.topic(os.environ["BENCH_TOPIC"], value_type=Order)


@app.agent(topic)
async def handle(orders: faust.StreamT[Order]) -> None:
    """Count them."""
    async for order in orders:
        meter.hit(order.created_at)
