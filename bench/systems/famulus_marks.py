"""The measured handler of this worker with marks and no rows: small events, each once."""

from app import Deliveries, app, handles
from bench.meter import Meter
from models.orders import Small

meter = Meter()
events = app.subscription("order-events")


@app.agent(events)
async def agent(deliveries: Deliveries) -> None:
    """Carry them."""
    await deliveries.carry()


@handles(Small)
async def handle(_: Small) -> None:
    """Count it."""
    meter.hit("")
