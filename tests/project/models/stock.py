"""The topic `stock-events`: what happens to the goods."""

from uuid import UUID

from famulus import Event


class StockReserved(Event, namespace="stock.StockReserved", topic="stock-events", key="product_id"):
    """*quantity* pieces of a product were set aside for an order."""

    order_id: UUID
    product_id: str
    quantity: int
