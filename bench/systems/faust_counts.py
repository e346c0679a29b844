"""Stock Faust with state: each order once, as far as a table of its ids can say, and a row of a table for it."""

import faust

from bench.systems.faust_base import Order, app, meter, topic

seen = app.Table("seen")
counts = app.Table("counts", default=int)


@app.agent(topic)
async def handle(orders: faust.StreamT[Order]) -> None:
    """Count each customer's orders."""
    async for order in orders:
        if order.order_id in seen:
            continue
        seen[order.order_id] = 1
        counts[order.customer_id] += 1
        meter.hit(order.created_at)
