"""Tests of tables: refused values, unreadable rows, and tables of other subscriptions."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import faust
import pytest

from famulus.errors import UnreadableRowError
from famulus.state.changelog import row_key
from famulus.state.partition_state import PartitionState
from famulus.state.tables import Table
from famulus.state.unit_of_work import UnitOfWork, current_unit, enter
from famulus.state.windows import TIME_MAX_MS, Window, start_of, text_of
from tests.support.in_memory.stored import MemoryStore, partition_of, record

SECRET = "s3cret"
YEAR_58885_MS = 1_796_092_800_000_000  # a time in microseconds


class Stay(faust.Record):
    """A row with a field for which JSON has no type."""

    count: int
    paid: Decimal = Decimal(0)
    mean: float | None = None


class Color(Enum):
    """An enumeration."""

    RED = "red"


def table_in(
    partition: PartitionState, key: Any, value: Any, default: Callable[[], Any] | None = None
) -> Table[Any, Any]:
    """Return a table of topic `here` whose rows are in *partition*."""
    partition.topic = "here"
    return Table("t", key, value, default=default, held={0: partition}, topic="here")


def begin(partition: PartitionState, timestamp: int = 0) -> UnitOfWork:
    """Enter the unit of work of an event, and return it."""
    unit = UnitOfWork(partition, record(timestamp=timestamp))
    enter(unit)
    return unit


@pytest.fixture(autouse=True)
def no_event() -> Any:
    """Leave the unit of work after the test."""
    yield
    enter(None)
    assert current_unit() is None


@pytest.mark.parametrize(
    ("value_type", "value", "kind", "says"),
    [
        (float, float("nan"), ValueError, "$: a number that is not finite"),
        (float, float("-inf"), ValueError, "$: a number that is not finite"),
        (float, True, TypeError, "$: Expected `float`, got `bool`"),
        (float | None, float("nan"), ValueError, "$: a number that is not finite"),
        (list[float], [1.0, float("inf")], ValueError, "$[1]: a number that is not finite"),
        (
            dict[str, float],
            {SECRET: float("nan")},
            ValueError,
            "$[...]: a number that is not finite",
        ),
        (Decimal, Decimal("NaN"), ValueError, "$: a number that is not finite"),
        (Decimal, Decimal("sNaN"), ValueError, "$: a number that is not finite"),
        (Decimal, 0.1, TypeError, "$: `float` would be read as `Decimal`"),
        (int, None, TypeError, "$: Expected `int`, got `null`"),
        (int, 2.5, TypeError, "$: Expected `int`, got `float`"),
        (int, True, TypeError, "$: Expected `int`, got `bool`"),
        (int, SECRET, TypeError, "$: Expected `int`, got `str`"),
        pytest.param(int, 10**5000, ValueError, "$: ", id="digits"),
        (str, 5, TypeError, "$: Expected `str`, got `int`"),
        (str, "\ud800" + SECRET, ValueError, "$: a text that UTF-8 cannot carry"),
        (UUID, str(UUID(int=1)), TypeError, "$: `str` would be read as `UUID`"),
        (datetime, "2026-01-01T00:00:00Z", TypeError, "$: `str` would be read as `datetime`"),
        (Color, SECRET, TypeError, "$: Invalid enum value"),
        (list[str], (SECRET,), TypeError, "$: `tuple` would be read as `list`"),
        (list[str], [SECRET, 1], TypeError, "$[1]: Expected `str`, got `int`"),
        (dict[str, Any], {"a": UUID(int=1)}, TypeError, "$[...]: `UUID` would be read as `str`"),
        (
            dict[str, Any],
            {"a": object()},
            TypeError,
            "$: Encoding objects of type object is unsupported",
        ),
        (Stay, Stay(count=2.5), TypeError, "$.count: Expected `int`, got `float`"),
        (Stay, Stay(count=1, mean=float("nan")), ValueError, "$.mean: a number that is not finite"),
        (
            Stay,
            Stay(count=1, paid=Decimal("NaN")),
            ValueError,
            "$.paid: a number that is not finite",
        ),
        (Stay, Stay(count=SECRET), TypeError, "$.count: Expected `int`, got `str`"),
        (Stay, {"count": 1}, TypeError, "$: "),
        (Stay, None, TypeError, "$: "),
    ],
)
def test_what_could_not_be_read_is_refused_where_it_is_written(
    value_type: Any, value: Any, kind: type[Exception], says: str
) -> None:
    """The error names the table, the type and the path, and never the value.

    The row does not change.
    """
    partition = partition_of()
    table = table_in(partition, str, value_type)
    unit = begin(partition)
    with pytest.raises(kind) as error:
        table["k"] = value
    assert "table 't' takes no such value, its values are of type" in str(error.value)
    assert says in str(error.value)
    assert SECRET not in str(error.value)
    assert unit.rows == {}


@pytest.mark.parametrize(
    ("key_type", "key"),
    [
        (UUID, str(UUID(int=1))),
        (int, "5"),
        (int, 5.0),
        (int, True),
        (int, None),
        (str, 5),
        (str, None),
        (str, b"bytes"),
        (str, "\ud800"),
        (float, float("nan")),
        (Decimal, "1.5"),
        (datetime, "2026-01-01T00:00:00Z"),
        (Color, "red"),
        (Stay, {"count": 1}),
        (str | int, "5"),  # would be read as the other type
        (list[int], (1, 2)),
    ],
)
def test_a_key_of_another_type_is_refused_also_where_it_is_read(key_type: Any, key: Any) -> None:
    """Otherwise a read would return the default, as if there were no such row."""
    partition = partition_of()
    table = table_in(partition, key_type, int, int)
    unit = begin(partition)

    def write() -> None:
        table[key] = 1

    def delete() -> None:
        del table[key]

    for act in (
        write,
        delete,
        lambda: table[key],
        lambda: table.get(key),
        lambda: key in table,
        lambda: table.pop(key),
    ):
        with pytest.raises(
            (TypeError, ValueError), match="table 't' takes no such key, its keys are of type"
        ):
            act()
    assert unit.rows == {}


def test_keys_that_are_equal_are_one_row() -> None:
    """An example is an int in a table of floats."""
    partition = partition_of()
    table = table_in(partition, float, int, int)
    begin(partition)
    table[1] = 5
    assert (table[1.0], table[1], 1 in table) == (5, 5, True)


@pytest.mark.parametrize(
    ("value_type", "raw", "why"),
    [
        (Stay, b'{"paid":"1"}', "$: Object missing required field `count`"),
        (Stay, b'{"count":"s3cret"}', "$.count: Expected `int`, got `str`"),
        (float, b"null", "$: Expected `float`, got `null`"),
        (int, b"\xff\x00", "$: "),
        (str, b'"s3cret', "$: "),
        (Color, b'"s3cret"', "$: Invalid enum value"),
        pytest.param(list[Any], b"[" * 100_000, "$: nested too deeply", id="deep"),
    ],
)
def test_a_row_that_cannot_be_read_is_an_error_of_its_own(
    value_type: Any, raw: bytes, why: str
) -> None:
    """Every way of reading raises it, and pages show the other rows.

    Such a row can be overwritten or deleted.
    """
    partition = partition_of({row_key("t", b"secret-key"): raw})
    partition.store = MemoryStore({row_key("t", b"secret-key"): raw, row_key("t", b"z"): b"7"})  # type: ignore[assignment]
    assert partition.store is not None
    partition.store.open()
    table = table_in(partition, str, value_type, lambda: None)
    assert table.page(None, 9)[0].unreadable.startswith(why)
    reads: list[Callable[[], object]] = [
        lambda: table["secret-key"],
        lambda: table.get("secret-key"),
        lambda: table.at("secret-key"),
        table.items,
    ]
    for inside in (False, True):
        if inside:
            begin(partition)
        for read in reads:
            with pytest.raises(UnreadableRowError) as error:
                read()
            says = str(error.value)
            assert "table 't': the row whose key has the digest " in says
            assert f"cannot be read ({why}" in says
            assert "give fields that are new a default" in says
            assert "secret" not in says
    assert "secret-key" in table
    del table["secret-key"]
    assert "secret-key" not in table


@pytest.mark.parametrize("is_windowed", [False, True])
def test_pages_show_each_row_once_also_where_keys_cannot_be_read(*, is_windowed: bool) -> None:
    """The last position of a page begins the next one, for any bytes."""
    keys = [
        b"",
        b"a",
        b"hex:00",
        b"hex:zz",
        b"\xff\xfe",
        b"\x80",
        "\u00e4/\\".encode(),
        b"\0",
        b"12345678",
    ]
    unreadable = (
        {b"\xff\xfe", b"\x80"} if not is_windowed else {key for key in keys if len(key) < 8}
    )
    partition = partition_of()
    partition.store = MemoryStore({row_key("t", key): b"1" for key in keys})  # type: ignore[assignment]
    assert partition.store is not None
    partition.store.open()
    table = table_in(partition, str, int)
    if is_windowed:
        table.tumbling(timedelta(hours=1), expires=timedelta(hours=1))
    found: list[bytes] = []
    after: bytes | None = None
    for _ in keys:
        [row] = table.page(after, 1)
        after = table.position(row.text)
        found.append(after)
        assert bool(row.unreadable) == (after in unreadable)
        if not row.unreadable:
            assert table.at(row.text) == 1
    assert found == sorted(keys)
    assert table.page(after, 1) == []


def test_a_table_of_another_subscription_is_not_touched() -> None:
    """The error names the owner.

    Outside a handler the table can be read.
    """
    here = partition_of({row_key("t", b"k"): b"5"})
    table = table_in(here, str, int, int)
    there = PartitionState(0, None, 1000, topic="there")
    unit = begin(there)

    def write() -> None:
        table["k"] = 1

    def delete() -> None:
        del table["k"]

    acts: list[Callable[[], object]] = [
        write,
        delete,
        lambda: table["k"],
        lambda: table.get("k"),
        lambda: "k" in table,
        lambda: table.pop("k"),
        lambda: table.set("k", 1),
    ]
    for act in acts:
        with pytest.raises(
            TypeError,
            match="'t' belongs to the subscription of 'here', and this event is of 'there'",
        ):
            act()
    assert unit.rows == {}
    unit.end()
    assert table["k"] == 5


# Values that can be changed in place.


def append(table: Table[Any, Any]) -> None:
    """Change the row in place."""
    table["k"].append("x")


def append_to_given(table: Table[Any, Any]) -> None:
    """Change the default that was given for a missing row."""
    given: list[str] = []
    table.get("k", given).append("x")


def append_to_written(table: Table[Any, Any]) -> None:
    """Change the value that the event itself wrote."""
    table["k"] = ["b"]
    append(table)


def append_what_is_none(table: Table[Any, Any]) -> None:
    """Change the row into a value that cannot be encoded."""
    table["k"].append(object())


@pytest.mark.parametrize(
    "change", [append, append_to_given, append_to_written, append_what_is_none]
)
@pytest.mark.parametrize("rows", [{row_key("t", b"k"): b'["a"]'}, {}])
def test_a_value_that_was_changed_in_place_and_not_written_back_is_noticed(
    rows: dict[bytes, bytes], change: Callable[[Table[Any, Any]], None]
) -> None:
    """The check runs at the end of the event.

    The value may be a row, a default or written by the event itself.
    """
    partition = partition_of(rows)
    table = table_in(partition, str, list[str], list)
    unit = begin(partition)
    change(table)
    with pytest.raises(TypeError, match=r"table 't' was changed in place .*assign it"):
        unit.join()
    assert partition.filling.rows == {}


def write_back(table: Table[Any, Any]) -> None:
    """Change the row twice, and assign it."""
    table["k"].append("y")
    row = table["k"]
    row.append("x")
    table["k"] = row


def delete(table: Table[Any, Any]) -> None:
    """Change the row, and delete it."""
    table["k"].append("x")
    del table["k"]


def pop(table: Table[Any, Any]) -> None:
    """Remove the row, and change the removed value."""
    table.pop("k").append("x")


def look(table: Table[Any, Any]) -> None:
    """Read rows that exist and rows that do not."""
    assert (table["k"], table["missing"], table.get("missing"), table.get("missing", [])) == (
        ["a"],
        [],
        None,
        [],
    )


@pytest.mark.parametrize("act", [write_back, delete, pop, look])
def test_what_was_written_back_or_only_looked_at_is_no_matter(
    act: Callable[[Table[Any, Any]], None],
) -> None:
    """A row in another form of JSON is not a change either."""
    partition = partition_of({row_key("t", b"k"): b'[ "a" ]'})
    table = table_in(partition, str, list[str], list)
    unit = begin(partition)
    act(table)
    unit.join()


def test_what_a_failed_attempt_changed_in_place_is_no_matter() -> None:
    partition = partition_of({row_key("t", b"k"): b'["a"]'})
    table = table_in(partition, str, list[str], list)
    unit = begin(partition)
    before = unit.savepoint("h")
    append(table)
    unit = unit.rollback(before)
    unit.join()


def test_records_are_looked_at_and_what_cannot_change_is_not() -> None:
    """A row of an older class that lacks a field with a default is not a change."""
    partition = partition_of({row_key("t", b"k"): b'{"count":1}'})
    table = table_in(partition, str, Stay)
    unit = begin(partition)
    assert table["k"] == Stay(count=1)
    unit.join()
    table["k"].count += 1
    with pytest.raises(TypeError, match="changed in place"):
        unit.join()
    numbers = table_in(partition_of(), str, int, int)
    unit = begin(numbers._held[0])
    assert numbers["k"] == 0
    assert not unit.reads


# Windows.


@pytest.mark.parametrize("timestamp", [YEAR_58885_MS, -1, -(10**15), 2**62, TIME_MAX_MS + 1])
def test_a_time_that_no_calendar_has_makes_no_row_that_cannot_be_shown(timestamp: int) -> None:
    """The event counts once, in the window of the worker's time or in the first one."""
    partition = partition_of()
    table = table_in(partition, str, int, int)
    hopping = table.hopping(timedelta(hours=2), timedelta(hours=1), expires=timedelta(days=1))
    unit = begin(partition, timestamp)
    hopping["k"] += 1
    starts = sorted(start_of(row[len(table.prefix) :]) for row in unit.rows)
    now_ms = datetime.now(UTC).timestamp() * 1000
    if timestamp < 0:
        assert starts == [0]
    else:
        assert len(starts) == 2
        assert now_ms - 4 * 3_600_000 < starts[0] < starts[1] <= now_ms
    assert hopping["k"].current() == 1
    assert hopping["k"].delta(timedelta(days=365 * 5000)) == 0


@pytest.mark.parametrize(
    "start_ms",
    [0, -3_600_000, YEAR_58885_MS, TIME_MAX_MS, 2**63 - 1, -(2**63), -62_135_596_800_001],
)
def test_the_text_of_any_window_is_read_back(start_ms: int) -> None:
    """Earlier versions wrote times that no calendar has.

    Their rows are listed and found, too.
    """
    raw = start_ms.to_bytes(8, "big", signed=True) + b"a/b"
    partition = partition_of({row_key("t", raw): b"1"})
    partition.store = MemoryStore({row_key("t", raw): b"1"})  # type: ignore[assignment]
    assert partition.store is not None
    partition.store.open()
    table = table_in(partition, str, int)
    table.tumbling(timedelta(milliseconds=1), expires=timedelta(hours=1))
    [row] = table.page(None, 9)
    assert row.text.endswith("/a/b")
    assert (row.text, row.value, row.unreadable) == (text_of(raw), 1, "")
    assert table.position(row.text) == raw
    assert table.at(row.text) == 1
    assert table.from_json(*table.as_json(raw, b"1")) == (raw, b"1")


@pytest.mark.parametrize(
    "text", ["", "today/a", "99999999999999999999 ms/a", "9999999999999999999 ms/a", "2026-13-01/a"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    table = table_in(partition_of(), str, int)
    table.tumbling(timedelta(hours=1), expires=timedelta(hours=1))
    with pytest.raises(ValueError, match=r"."):
        table.position(text)
    with pytest.raises(ValueError, match="is no key of table t"):
        table.at(text)


def test_windows_begin_at_multiples_of_the_step_and_none_before_1970() -> None:
    window = Window(20, 10, 0)
    assert list(window.starts(35)) == [20, 30]
    assert list(window.starts(5)) == [0]
    assert list(window.starts(-5)) == [-20, -10]  # no event has written these
