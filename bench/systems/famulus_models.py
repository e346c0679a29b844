"""The measured events, in types that JSON has, as all systems read them."""

import faust

from famulus import Event


class Line(faust.Record):
    """A line of an order."""

    product_id: str
    quantity: int
    price: float


class BenchOrder(Event, namespace="bench.Order", topic="order-events", key="customer_id"):
    """An order of two lines, 321 bytes as JSON. *created_at*: ISO 8601."""

    order_id: str
    customer_id: str
    total_amount: float
    created_at: str
    items: list[Line]


class BenchNoted(Event, namespace="bench.Noted", topic="noted-orders", key="customer_id"):
    """What a handler publishes of an order."""

    order_id: str
    customer_id: str
    number: int


class Small(Event, namespace="bench.Small", topic="order-events", key="customer_id"):
    """An event that is little more than its id."""

    customer_id: str
