"""Tests of dispatch: the type of a record, the handlers of a type, a handler's parameters."""

from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import svcs

from famulus.errors import ConfigError, DecodeError
from famulus.processing.failures.retry_policy import Policy
from famulus.processing.handlers import Dispatcher, EventTypes, Sizes, handler_for
from famulus.producer.event_bus import EventBus
from famulus.serialization.records import Delivery, delivery_of
from models.stock import StockReserved

EVENT = StockReserved(order_id=UUID(int=1), product_id="part-1", quantity=2)
JSON = b'{"order_id":"00000000-0000-0000-0000-000000000001","product_id":"part-1","quantity":2}'
NAME = "stock.StockReserved"


def record(value: bytes | None = JSON, headers: Sequence[tuple[str, bytes]] = ()) -> Any:
    """Return a record as it is read from Kafka."""
    return SimpleNamespace(
        topic="stock-events",
        partition=0,
        offset=1,
        timestamp=2,
        key=b"k",
        value=value,
        headers=headers,
    )


DELIVERY = delivery_of(record(), "id", 1)


def dispatcher(services: svcs.Registry | None = None) -> Dispatcher:
    """Return a dispatcher without a broker."""
    return Dispatcher(services or svcs.Registry(), EventBus(SimpleNamespace()))  # type: ignore[arg-type]


class Shelf:
    """A service that counts how often its scope begins and ends."""

    opened = 0
    closed = 0


async def shelf() -> AsyncIterator[Shelf]:
    """Yield a service for each scope, and count its end."""
    Shelf.opened += 1
    yield Shelf()
    Shelf.closed += 1


async def test_parameters_are_filled_by_their_types() -> None:
    """The order and the names of the parameters are free."""
    seen: list[object] = []

    async def handler(bus: EventBus, it: Delivery, where: Shelf, event: StockReserved) -> None:
        seen.extend([bus, it, where, event])

    services = svcs.Registry()
    services.register_factory(Shelf, shelf)
    station = dispatcher(services)
    station.add(handler_for(StockReserved, handler, Policy()))
    station.check()
    before = Shelf.opened, Shelf.closed
    await station.call(station.by_type[StockReserved][0], EVENT, DELIVERY)
    assert [type(value) for value in seen] == [EventBus, Delivery, Shelf, StockReserved]
    assert (Shelf.opened, Shelf.closed) == (before[0] + 1, before[1] + 1)


async def test_services_are_closed_when_the_handler_raises() -> None:
    def handler(event: StockReserved, where: Shelf) -> None:
        raise ValueError("no shelf")

    services = svcs.Registry()
    services.register_factory(Shelf, shelf)
    station = dispatcher(services)
    before = Shelf.closed
    with pytest.raises(ValueError, match="no shelf"):
        await station.call(handler_for(StockReserved, handler, Policy()), EVENT, DELIVERY)
    assert Shelf.closed == before + 1


async def test_a_class_is_made_anew_for_each_event() -> None:
    """Its constructor gets parameters by their types, too."""
    made: list[object] = []

    class Keep:
        def __init__(self, bus: EventBus) -> None:
            self.bus = bus

        async def handle(self, event: StockReserved) -> None:
            made.append(self)

    station = dispatcher()
    handler = handler_for(StockReserved, Keep, Policy())
    await station.call(handler, EVENT, DELIVERY)
    await station.call(handler, EVENT, DELIVERY)
    assert len(set(map(id, made))) == 2


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (lambda event: None, "a lambda cannot be a handler"),
        (type("Empty", (), {}), "has no method `handle`"),
    ],
)
def test_what_cannot_be_called_is_an_error_at_registration(target: Any, says: str) -> None:
    """The error must not wait for the first event."""
    with pytest.raises(ConfigError, match=says):
        handler_for(StockReserved, target, Policy())


def test_a_handler_must_take_its_event() -> None:
    def handler(delivery: Delivery) -> None: ...

    with pytest.raises(ConfigError, match="has no parameter of type StockReserved"):
        handler_for(StockReserved, handler, Policy())


def test_a_service_that_nobody_registered_is_an_error_at_the_start() -> None:
    """The error shows the line that registers the service."""

    def handler(event: StockReserved, where: Shelf) -> None: ...

    station = dispatcher()
    station.add(handler_for(StockReserved, handler, Policy()))
    with pytest.raises(ConfigError, match=r"app\.services\.register_factory\(Shelf"):
        station.check()


class Other(StockReserved, namespace="stock.Other", topic="stock-events", key="product_id"):
    """A second type of the topic."""


@pytest.mark.parametrize(
    ("value", "headers", "found"),
    [
        (JSON, [("ce_type", b"stock.Other")], Other),
        (JSON, [("ce_type", b"stock.StockReserved")], StockReserved),
        (JSON[:-1] + b',"__faust":{"ns":"stock.Other"}}', [], Other),
        (
            JSON[:-1] + b',"__faust":{"ns":"stock.Other"}}',
            [("ce_type", b"stock.StockReserved")],
            StockReserved,
        ),
        (JSON, [("ce_type", b"stock.Other"), ("ce_type", b"stock.StockReserved")], Other),
        (JSON, [("content-type", None), ("ce_type", b"stock.Other")], Other),
        (JSON, [("ce_type", None), ("ce_type", b"stock.Other")], type(None)),
    ],
)
def test_the_type_is_in_the_header_or_in_fausts_metadata(
    value: bytes, headers: Any, found: type
) -> None:
    """The header takes precedence, and the first one of several.

    A header without a value names no known type.
    """
    types = EventTypes("stock-events", [StockReserved, Other])
    assert type(types.decode(record(value, headers))) is found


def test_a_topics_only_type_needs_no_name() -> None:
    """Producers in other languages may send no headers at all."""
    assert EventTypes("stock-events", [StockReserved]).decode(record()) == EVENT


def test_what_is_too_large_is_poison_before_it_is_looked_into() -> None:
    """A payload from the payload store has the limit of that store."""
    types = EventTypes("stock-events", [StockReserved], Sizes(value_bytes=len(JSON), headers=2))
    assert types.decode(record(JSON, [("h", b"")] * 2)) == EVENT
    with pytest.raises(DecodeError, match=r"Kafka.ConsumerConfig.MaxValueBytes is \d+$"):
        types.decode(record(JSON + b" "))
    assert types.decode(record(JSON + b" "), is_redeemed=True) == EVENT
    with pytest.raises(
        DecodeError, match=r"^headers: 3 of them, Kafka.ConsumerConfig.MaxHeaders is 2$"
    ):
        types.decode(record(JSON, [("h", b"")] * 3))


def test_without_a_name_among_several_types_it_is_poison() -> None:
    with pytest.raises(DecodeError, match="no ce_type header, and stock-events carries 2 types"):
        EventTypes("stock-events", [StockReserved, Other]).decode(record())


@pytest.mark.parametrize("name", [b"models.stock.StockReserved", b"builtins.object", b"unknown"])
def test_a_sender_never_chooses_a_class(name: bytes) -> None:
    """A name that is not one of the topic's types is unknown, even if such a class exists."""
    assert (
        EventTypes("stock-events", [StockReserved]).decode(record(JSON, [("ce_type", name)]))
        is None
    )
    value = JSON[:-1] + b',"__faust":{"ns":"' + name + b'"}}'
    assert EventTypes("stock-events", [StockReserved]).decode(record(value)) is None
