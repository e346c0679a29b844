"""The measured handler of this worker: typed, validated events, no state."""

import asyncio
import os

from app import Deliveries, app, handles
from bench.meter import Meter
from models.orders import BenchOrder

meter = Meter()
wait_s = float(os.environ.get("BENCH_WAIT_S", "0"))
orders = app.subscription("order-events", dedupe=False)


@app.agent(orders)
async def order_agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(BenchOrder)
async def handle(order: BenchOrder) -> None:
    """Count it, after a wait where one is asked for."""
    if wait_s:
        await asyncio.sleep(wait_s)
    meter.hit(order.created_at)
