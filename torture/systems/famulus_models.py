"""The events of a torture run."""

from famulus import Event

NEWS_EVERY = 20  # every so many payments of a customer, beginning with the first, one is announced


class PaymentMade(Event, namespace="torture.PaymentMade", topic="payments", key="customer"):
    """A customer paid. *amount* in cents, *number* counts the payments of this customer from 0."""

    payment_id: str
    customer: str
    amount: int
    number: int


class PaymentAnnounced(Event, namespace="torture.PaymentAnnounced", topic="news", key="customer"):
    """What the handler publishes for some of the payments."""

    payment_id: str
    customer: str
