"""What to do about orders: note what each customer spends, and have the goods set aside."""

from decimal import Decimal
from uuid import UUID

from app import EventBus, PermanentError, app, handles
from models.orders import OrderCreated, OrderItem
from models.stock import StockReserved

orders = app.subscription("order-events")
spend = orders.Table(
    "spend", key=UUID, value=Decimal, default=Decimal, help="What each customer has ordered for."
)


class Warehouse:
    """Knows what can be set aside.

    A service: a handler asks for it by its type and gets one for each event.
    """

    def reserve(self, item: OrderItem) -> int:
        """The pieces set aside for one line of an order.

        Raises PermanentError for a line that asks for none.
        """
        if item.quantity < 1:
            raise PermanentError("an order line asks for no piece")
        return item.quantity


app.services.register_factory(Warehouse, Warehouse)


@handles(OrderCreated)
async def note_spend(order: OrderCreated) -> None:
    """Add to a table: the write is kept when every handler of the event succeeds."""
    spend[order.customer_id] += order.total_amount


@handles(OrderCreated)
async def reserve_stock(order: OrderCreated, warehouse: Warehouse, bus: EventBus) -> None:
    """Publishing is part of it too: the events leave when the handlers have succeeded."""
    for item in order.items:
        quantity = warehouse.reserve(item)
        await bus.publish(
            StockReserved(order_id=order.order_id, product_id=item.product_id, quantity=quantity)
        )
