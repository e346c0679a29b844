"""What to do about stock: count the pieces reserved of each product."""

from app import app, handles
from models.stock import StockReserved

stock = app.subscription("stock-events")
stock_reserved = stock.Table(
    "stock_reserved", key=str, value=int, default=int, help="Pieces reserved of each product."
)


@handles(StockReserved)
class CountReserved:
    """A handler may be a class: its constructor asks for services, `handle` for the event."""

    async def handle(self, reserved: StockReserved) -> None:
        """Add the pieces of one reservation."""
        stock_reserved[reserved.product_id] += reserved.quantity
