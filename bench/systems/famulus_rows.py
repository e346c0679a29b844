"""The measured handler of this worker with rows and no marks: what restoring is measured with."""

from app import Deliveries, app, handles
from bench.meter import Meter
from models.orders import BenchOrder

meter = Meter()
orders = app.subscription("order-events", dedupe=False)
counts = orders.Table("counts", key=str, value=int, default=int)


@app.agent(orders)
async def order_agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(BenchOrder)
async def handle(order: BenchOrder) -> None:
    """Count the customer's orders."""
    counts[order.customer_id] += 1
    meter.hit(order.created_at)
