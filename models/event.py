"""What every event is: a typed record of something that happened, which names its topic and its key.

    class OrderCreated(Event, namespace="orders.OrderCreated", topic="order-events", key="customer_id"):
        order_id: UUID
        customer_id: UUID

The namespace is the event's name on the wire: it is written out, so that moving a file changes no byte. The key decides
the partition and so the order: events of one key are handled one after the other.
"""

from typing import Any, ClassVar, dataclass_transform
from uuid import UUID

import faust


def _uuid(value: Any) -> UUID:  # Any: what JSON gave
    return value if isinstance(value, UUID) else UUID(value)


@dataclass_transform(kw_only_default=True)
class Part(faust.Record, abstract=True, coerce=True, coercions={UUID: _uuid}):
    """Something inside an event, such as one line of an order."""


class Event(Part, abstract=True):
    """Something that happened. Class keywords: `namespace` (its name on the wire), `topic`, `key` (one of its fields).

    A keyword that is missing or wrong raises TypeError at import, naming the class and the field.
    """

    __topic__: ClassVar[str]
    __key__: ClassVar[str]

    def __init_subclass__(
        cls, *, namespace: str = "", topic: str = "", key: str = "", abstract: bool = False, **options: Any
    ) -> None:
        """Check the keywords and remember them. *options* are those of faust.Record."""
        super().__init_subclass__(namespace=namespace or None, abstract=abstract, **options)
        if abstract:
            return
        for keyword, value in {"namespace": namespace, "topic": topic, "key": key}.items():
            if not value:
                raise TypeError(f"event {cls.__name__} names no {keyword}: class {cls.__name__}(Event, {keyword}=...)")
        fields = cls._options.fields
        if key not in fields:
            raise TypeError(
                f"event {cls.__name__} has no field {key!r} for its key; its fields are {', '.join(fields)}"
            )
        cls.__topic__ = topic
        cls.__key__ = key
