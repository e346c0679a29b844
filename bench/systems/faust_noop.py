"""Stock Faust as its documentation has it: an agent over typed Records."""

import faust

from bench.systems.faust_base import Order, app, meter, topic


@app.agent(topic)
async def handle(orders: faust.StreamT[Order]) -> None:
    """Count them."""
    async for order in orders:
        meter.hit(order.created_at)
