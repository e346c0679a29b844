"""Tests of events: the class keywords, and the errors at import."""

from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from famulus import Event, Part
from models.orders import OrderCreated


def test_an_event_names_its_topic_and_key() -> None:
    """The engine reads these two attributes."""
    assert (OrderCreated.__topic__, OrderCreated.__key__) == ("order-events", "customer_id")


@pytest.mark.parametrize("missing", ["namespace", "topic", "key"])
def test_a_missing_keyword_is_an_error_that_names_the_class(missing: str) -> None:
    """No keyword has a default: all three are required."""
    keywords = {"namespace": "test.Bad", "topic": "t", "key": "name"}
    del keywords[missing]
    with pytest.raises(TypeError, match=f"event Bad names no {missing}"):
        type("Bad", (Event,), {"__annotations__": {"name": str}}, **keywords)


def test_an_unknown_key_field_is_an_error_that_names_class_and_field() -> None:
    """A typing mistake in `key=` fails at import, not at the first record."""
    with pytest.raises(
        TypeError, match="event Bad has no field 'nam' for its key; its fields are name"
    ):
        type(
            "Bad",
            (Event,),
            {"__annotations__": {"name": str}},
            namespace="test.Bad2",
            topic="t",
            key="nam",
        )


def test_fields_may_be_called_topic_and_key() -> None:
    """The names of the class keywords stay free for fields."""

    class Labelled(Event, namespace="test.Labelled", topic="labels", key="key"):
        key: str
        topic: str

    event = Labelled(key="a", topic="b")
    assert (event.key, event.topic, Labelled.__topic__) == ("a", "b", "labels")


def test_values_are_what_their_fields_say() -> None:
    """Construction from text gives typed values, as decoding does."""

    class Priced(Part, namespace="test.Priced"):
        id: UUID
        price: Decimal

    number = uuid4()
    priced = Priced.from_data({"id": str(number), "price": "12.10"})
    assert (priced.id, priced.price) == (number, Decimal("12.10"))


def test_two_events_of_one_namespace_are_an_error_that_names_both() -> None:
    """Without the error, the handlers of the first class would never run."""

    class First(Event, namespace="test.Twice", topic="t", key="name"):
        name: str

    with pytest.raises(
        TypeError, match=r"event Second .* the namespace 'test\.Twice', which .*First has already"
    ):

        class Second(Event, namespace="test.Twice", topic="t", key="name"):
            name: str

    assert First.__topic__ == "t"


def test_a_class_that_is_imported_again_keeps_its_namespace() -> None:
    """A reload of a module declares its classes again."""
    for _ in range(2):
        type(
            "Again",
            (Event,),
            {"__annotations__": {"name": str}},
            namespace="test.Again",
            topic="t",
            key="name",
        )
