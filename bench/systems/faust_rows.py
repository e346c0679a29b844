"""Stock Faust with one table: what restoring is measured with."""

import faust

from bench.systems.faust_base import Order, app, meter, topic

counts = app.Table("counts", default=int)


@app.agent(topic)
async def handle(orders: faust.StreamT[Order]) -> None:
    """Count each customer's orders."""
    async for order in orders:
        counts[order.customer_id] += 1
        meter.hit(order.created_at)
