"""The topic `order-events`: what customers do."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from famulus import Event, Part


class OrderItem(Part, namespace="orders.OrderItem"):
    """One line of an order. *price* is for one piece."""

    product_id: str
    quantity: int
    price: Decimal


class OrderCreated(Event, namespace="orders.OrderCreated", topic="order-events", key="customer_id"):
    """A customer placed an order.

    *total_amount* is what the customer pays, discounts and taxes included.
    """

    order_id: UUID
    customer_id: UUID
    total_amount: Decimal
    created_at: datetime
    items: list[OrderItem]
