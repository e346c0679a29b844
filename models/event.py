"""What every event is: a typed record of something that happened, which names its topic and its key.

    class OrderCreated(Event, namespace="orders.OrderCreated", topic="order-events", key="customer_id"):
        order_id: UUID
        customer_id: UUID

The namespace is the event's name on the wire: it is written out, so that moving a file changes no byte. The key decides
the partition and so the order: events of one key are handled one after the other.
"""

from collections.abc import Callable, Iterator
from datetime import date, datetime
from enum import Enum
from typing import Any, ClassVar, dataclass_transform, get_args, get_type_hints
from uuid import UUID

import faust


def _datetime(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _date(text: str) -> date:
    return date.fromisoformat(text)


# How a field is made from JSON text. The order counts: a datetime is a date too.
FROM_TEXT: dict[Any, Callable[[Any], Any]] = {UUID: UUID, datetime: _datetime, date: _date}


def _enums_in(annotation: Any) -> Iterator[type[Enum]]:
    """Every enumeration that a field's annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        yield annotation
    for argument in get_args(annotation):
        yield from _enums_in(argument)


@dataclass_transform(kw_only_default=True)
class Part(faust.Record, abstract=True, coerce=True, coercions=FROM_TEXT):
    """Something inside an event, such as one line of an order.

    Class keyword: `sensitive` names fields that are shown to nobody, such as `("email", "address")`.
    """

    __sensitive__: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(
        cls, *, coercions: dict[Any, Any] | None = None, sensitive: tuple[str, ...] = (), **options: Any
    ) -> None:
        """*options* are those of faust.Record; enumerations among the fields are made from their values."""
        if unknown := set(sensitive) - get_type_hints(cls).keys():
            raise TypeError(f"{cls.__name__} has no field {', '.join(sorted(unknown))}, which it calls sensitive")
        cls.__sensitive__ |= frozenset(sensitive)
        enums: dict[Any, Any] = {
            enum: enum for annotation in get_type_hints(cls).values() for enum in _enums_in(annotation)
        }
        super().__init_subclass__(coercions={**enums, **(coercions or {})}, **options)


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
        if key in cls.__sensitive__:
            raise TypeError(
                f"event {cls.__name__} calls its key {key!r} sensitive: a key is seen by all who operate Kafka"
            )
        cls.__topic__ = topic
        cls.__key__ = key
