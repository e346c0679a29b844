"""The measured handler of this worker that publishes: BENCH_PUBLISH events for each order, 0 for none."""

import os

from app import Deliveries, EventBus, app, handles
from bench.meter import Meter
from models.orders import BenchNoted, BenchOrder

meter = Meter()
each = int(os.environ["BENCH_PUBLISH"])
orders = app.subscription("order-events", dedupe=False)


@app.agent(orders)
async def order_agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(BenchOrder)
async def handle(order: BenchOrder, bus: EventBus) -> None:
    """Publish, and count it."""
    for number in range(each):
        await bus.publish(BenchNoted(order_id=order.order_id, customer_id=order.customer_id, number=number))
    meter.hit(order.created_at)
