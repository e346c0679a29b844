"""The measured handler of this worker that publishes: of BENCH_MADE events that it makes of an order, BENCH_PUBLISH."""

import os

from app import Deliveries, EventBus, app, handles
from bench.meter import Meter
from models.orders import BenchNoted, BenchOrder

meter = Meter()
made, published = int(os.environ["BENCH_MADE"]), int(os.environ["BENCH_PUBLISH"])
orders = app.subscription("order-events", dedupe=False)


@app.agent(orders)
async def order_agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(BenchOrder)
async def handle(order: BenchOrder, bus: EventBus) -> None:
    """Publish, and count it."""
    noted = [
        BenchNoted(order_id=order.order_id, customer_id=order.customer_id, number=n)
        for n in range(made)
    ]
    for event in noted[:published]:
        await bus.publish(event)
    meter.hit(order.created_at)
