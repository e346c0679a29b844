"""The measured handler of this worker: typed, validated events, no state."""

import asyncio
import os

from app import Deliveries, Retry, TransientError, app, handles
from bench.meter import Meter
from models.orders import BenchOrder

meter = Meter()
failure_policy = os.environ.get("BENCH_FAILING")
wait_s = float(os.environ.get("BENCH_WAIT_S", "0"))
orders = app.subscription("order-events", dedupe=False)


@app.agent(orders)
async def order_agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(BenchOrder, retry=Retry(wait_initial_s=60))
async def handle(order: BenchOrder) -> None:
    """Count it, after a wait where one is asked for; or fail, if it is of the customer who is to fail."""
    if order.customer_id == failure_policy:
        raise TransientError("away")
    if wait_s:
        await asyncio.sleep(wait_s)
    meter.hit(order.created_at)
