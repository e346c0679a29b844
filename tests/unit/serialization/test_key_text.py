"""Tests of record keys: each value has one text, the one of JSON and of the tables."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Any, NewType
from uuid import UUID

import pytest

from famulus.producer.producer import Producer
from famulus.serialization.key_text import key_bytes
from famulus.state.tables import Table

Name = NewType("Name", str)


class Region(str, Enum):  # noqa: UP042  # its str() is not its value
    """An enumeration of texts whose `str()` is not the value."""

    EU = "eu"


class Level(IntEnum):
    """An enumeration of numbers."""

    LOW = 1


class Zone(StrEnum):
    """An enumeration of texts whose `str()` is the value."""

    N = "n"


class Sort(Enum):
    """An enumeration that is neither text nor number."""

    A = "a"


CASES: list[tuple[Any, Any, bytes]] = [
    (str, "a b", b"a b"),
    (str, "", b""),
    (Region, Region.EU, b"eu"),
    (Level, Level.LOW, b"1"),
    (Zone, Zone.N, b"n"),
    (Sort, Sort.A, b"a"),
    (bool, True, b"true"),
    (bool, False, b"false"),
    (int, -7, b"-7"),
    (float, 1.5, b"1.5"),
    (Decimal, Decimal("1E+2"), b"1E+2"),
    (UUID, UUID(int=1), b"00000000-0000-0000-0000-000000000001"),
    (datetime, datetime(2024, 1, 1, tzinfo=UTC), b"2024-01-01T00:00:00Z"),
    (
        datetime,
        datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        b"2024-01-01T00:00:00+01:00",
    ),
    (date, date(2024, 1, 2), b"2024-01-02"),
    (Name, Name("n"), b"n"),
    (str, 'a"b', b'a"b'),
]


@pytest.mark.parametrize(("of", "value", "text"), CASES)
def test_a_key_has_the_text_that_a_tables_key_has(of: Any, value: object, text: bytes) -> None:
    """An imported row must be in the partition of the events of its key."""
    assert key_bytes(value) == text
    table: Table[Any, int] = Table("t", of, int, default=None, held={}, help="")
    row = table._row(value)[len(table.prefix) :]
    assert row == text
    assert table.event_key(row) == text


def test_bytes_stay_and_none_is_no_key() -> None:
    assert (key_bytes(b"\xff"), key_bytes(bytearray(b"a")), key_bytes(None)) == (
        b"\xff",
        b"a",
        None,
    )


@pytest.mark.parametrize(
    "key",
    [[1], {"a": 1}, {1}, (1,), float("nan"), float("inf"), Decimal("NaN"), object(), "\ud800", 1j],
)
def test_what_has_no_one_text_is_refused(key: object) -> None:
    """The `str()` of an object would put its events into a random partition."""
    with pytest.raises(TypeError, match="cannot be the key of a record"):
        key_bytes(key)


@pytest.mark.parametrize(
    ("topic", "given"),
    [
        ("t", {"partition": -1}),
        ("t", {"partition": True}),
        ("t", {"partition": "1"}),
        ("t", {"timestamp_ms": -1}),
        ("t", {"timestamp_ms": 2**63}),
        ("t", {"timestamp_ms": 1.5}),
        ("no name", {}),
        ("..", {}),
        ("x" * 250, {}),
        ("t", {"headers": {"a": "text"}}),
        ("t", {"headers": [("a", b"b", b"c")]}),
        ("t", {"headers": ["ab"]}),
    ],
)
async def test_what_kafka_never_takes_is_said_at_once(topic: str, given: dict[str, Any]) -> None:
    """The error is raised without a broker and without any wait."""
    with pytest.raises((TypeError, ValueError)) as caught:
        await Producer().produce(topic, "k", b"v", **given)
    assert "\n" not in str(caught.value)
