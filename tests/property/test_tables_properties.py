"""Properties of tables: an accepted row is read back equal, and all others are refused.

A row is read by events, from the changelog and from an export.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, Literal, NamedTuple
from uuid import UUID

import faust
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from famulus.state.partition_state import PartitionState
from famulus.state.row_codec import key_coder
from famulus.state.tables import Table
from famulus.state.unit_of_work import UnitOfWork, enter
from tests.support.in_memory.stored import Memory, partition_of, record


class Color(Enum):
    """An enumeration of texts that look like other values."""

    RED = "red"
    NUMBER = "5"
    QUOTED = '"x"'
    NOTHING = "null"


class Level(IntEnum):
    """An enumeration of numbers."""

    LOW = 1
    HIGH = 2


class Inner(faust.Record):
    """A nested record."""

    label: str
    price: Decimal


class Outer(faust.Record):
    """A record with most kinds of fields."""

    number: int
    ratio: float | None = None
    inner: Inner | None = None
    names: list[str] = []  # Faust copies it


@dataclass
class Point:
    """A dataclass, which msgspec supports itself."""

    x: int
    y: float


class Struct(msgspec.Struct):
    """A struct, which msgspec supports itself."""

    x: int
    name: str = ""


class Pair(NamedTuple):
    """A named tuple, which msgspec supports itself."""

    left: int
    right: str


finite = st.floats(allow_nan=False, allow_infinity=False)
decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20)
zones = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
datetimes = st.datetimes(timezones=st.none() | zones)
simple = st.none() | st.floats() | st.text() | st.booleans() | st.integers()
KEYS: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(),
    int: st.integers(),
    bool: st.booleans(),
    float: finite,
    Decimal: decimals,
    UUID: st.uuids(),
    datetime: datetimes,
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(),
    bytes: st.binary(),
    Color: st.sampled_from(Color),
    Level: st.sampled_from(Level),
    Literal["a", "b", 1]: st.sampled_from(["a", "b", 1]),
    str | int: st.text() | st.integers(),
    UUID | None: st.none() | st.uuids(),
    tuple[str, int]: st.tuples(st.text(), st.integers()),
    Inner: st.builds(Inner, label=st.text(), price=decimals),
}
VALUES: dict[Any, st.SearchStrategy[Any]] = KEYS | {
    int | None: st.none() | st.integers(),
    float | None: st.none() | finite,
    list[str]: st.lists(st.text()),
    set[int]: st.sets(st.integers()),
    frozenset[str]: st.frozensets(st.text()),
    dict[str, float]: st.dictionaries(st.text(), finite),
    dict[int, list[UUID]]: st.dictionaries(st.integers(), st.lists(st.uuids())),
    tuple[int, ...]: st.lists(st.integers()).map(tuple),
    list[Decimal]: st.lists(decimals),
    dict: st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
    list: st.lists(st.booleans() | finite),
    Any: st.none() | st.text() | st.lists(st.integers()),
    Outer: st.builds(
        Outer,
        number=st.integers(),
        ratio=st.none() | finite,
        names=st.lists(st.text()),
        inner=st.none() | st.builds(Inner, label=st.text(), price=decimals),
    ),
    Point: st.builds(Point, x=st.integers(), y=finite),
    Struct: st.builds(Struct, x=st.integers(), name=st.text()),
    Pair: st.builds(Pair, left=st.integers(), right=st.text()),
}
ANYTHING = st.one_of(
    *KEYS.values(),
    st.floats(),
    st.decimals(),
    st.lists(st.floats()),
    st.dictionaries(st.text(), st.floats()),
    st.text(st.characters(categories=["Cs", "L"])),
    st.builds(object),
    st.sampled_from([int, Ellipsis, b"", 1j]),
    *(strategy for of, strategy in VALUES.items() if of not in KEYS),
    st.builds(Outer, number=simple, ratio=simple),
    st.datetimes(timezones=st.timezones()),
)


@contextmanager
def in_event(partition: PartitionState) -> Iterator[UnitOfWork]:
    """Yield the unit of work of an event in flight."""
    unit = UnitOfWork(partition, record())
    enter(unit)
    try:
        yield unit
    finally:
        unit.end()
        enter(None)


def table_of(key: Any, value: Any) -> tuple[Table[Any, Any], PartitionState]:
    """Return a table and the partition that has its rows."""
    partition = partition_of(group_bytes=10_000_000)
    return Table("t", key, value, default=None, held={0: partition}), partition


def check(table: Table[Any, Any], partition: PartitionState, key: Any, value: Any) -> bool:
    """Write a row; return True if it was accepted and is read back equal everywhere."""
    with in_event(partition) as unit:
        refusal = ""
        try:
            table[key] = value
        except (TypeError, ValueError) as error:
            refusal = str(error)
        if refusal:
            assert refusal.startswith("table 't' takes no such ")
            assert unit.rows == {}
            return False
        assert table[key] == value
        unit.join()
    [(row, raw)] = partition.filling.rows.items()
    assert raw is not None
    partition.store = Memory({row: raw})  # type: ignore[assignment]
    partition.filling.rows.clear()
    with in_event(partition):
        assert table[key] == value
        assert key in table
    inner = row[len(table.prefix) :]
    assert table.at(table.key_text(inner)) == value
    again = table.from_json(*table.as_json(inner, raw))
    assert (again[0], table._decode(again[1])) == (inner, value)
    partition.store = Memory()  # type: ignore[assignment]
    return True


@pytest.mark.parametrize("value_type", VALUES, ids=str)
@settings(max_examples=25)
@given(data=st.data())
def test_a_value_of_the_tables_type_is_read_as_it_was_written(
    value_type: Any, data: st.DataObject
) -> None:
    table, partition = table_of(str, value_type)
    assert check(table, partition, "k", data.draw(VALUES[value_type]))


@pytest.mark.parametrize("value_type", VALUES, ids=str)
@settings(max_examples=40)
@given(value=ANYTHING)
def test_any_other_value_is_refused_or_read_as_it_was_written(value_type: Any, value: Any) -> None:
    """No value is stored as something else or becomes unreadable."""
    table, partition = table_of(str, value_type)
    check(table, partition, "k", value)


@pytest.mark.parametrize("key_type", KEYS, ids=str)
@settings(max_examples=40)
@given(key=ANYTHING)
def test_any_key_is_refused_or_finds_its_row_again(key_type: Any, key: Any) -> None:
    """The row is also found from the changelog, and by the text of the key in a URL."""
    table, partition = table_of(key_type, int)
    check(table, partition, key, 1)


@pytest.mark.parametrize("key_type", [of for of in KEYS if of != str | int], ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_the_text_of_a_key_is_read_back(key_type: Any, data: st.DataObject) -> None:
    key = data.draw(KEYS[key_type])
    coder = key_coder(key_type)
    raw = coder.canonical(key)
    assert coder.decode(raw) == key
    assert coder.canonical(coder.decode(raw)) == raw
    assert b"\xff" not in raw
    raw.decode()
    # A text may have its own quotes; the key of any other type has no JSON quotes left.
    assert isinstance(key, str) or not (raw.startswith(b'"') and raw.endswith(b'"'))
