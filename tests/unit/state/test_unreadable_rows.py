"""Tests of unreadable rows: the partition halts, no event is dead-lettered, exports go on."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import msgspec
import pytest

from famulus.cli.state.json_lines import line_of, read_lines
from famulus.cli.state.verify import unreadable_rows
from famulus.errors import ConfigError
from famulus.inspection.changelog_reader import Fold
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import handler_for
from famulus.processing.subscription import Options, Subscription
from famulus.state.changelog import ROW, row_key
from famulus.state.tables import Table
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.failing import NEVER
from tests.support.in_memory.trial import Trial, Try, trials

Make = Callable[..., Trial]


class Stats(faust.Record):
    """A row whose class got another field after the row was written."""

    n: int
    last: str


class Place(faust.Record):
    """A key with fields."""

    name: str
    rent: Decimal


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def read(table: Table[Any, Any]) -> object:
    """Read the row."""
    return table["k"]


def read_and_say_more(table: Table[Any, Any]) -> object:
    """Wrap the error in another one."""
    try:
        return table["k"]
    except Exception as error:
        raise KeyError("no statistics") from error


def read_and_fall(table: Table[Any, Any]) -> object:
    """Raise another error while the first one is handled."""
    try:
        return table["k"]
    except Exception:  # as handlers do
        return dict[str, object]()["k"]


async def read_beside(table: Table[Any, Any]) -> object:
    """Read the row in a task of a task group."""

    async def read_it() -> object:
        return table["k"]

    async with asyncio.TaskGroup() as group:
        group.create_task(read_it())
    return None


@pytest.mark.parametrize("act", [read, read_and_say_more, read_and_fall, read_beside])
async def test_its_partition_halts_and_no_event_is_a_dead_letter(
    make: Make, act: Callable[[Any], Any]
) -> None:
    """No attempt is counted, even if the handler replaces the error.

    After a correction of the row the event is handled.
    """
    trial = make(concurrency=1)
    row = row_key("stats", b"k")
    trial.stored[row] = b'{"n":1}'
    table: Table[Any, Any] = Table("stats", str, Stats, default=None, held={})

    async def do(event: Try) -> None:
        if event.name == "bad" and isinstance(found := act(table), Awaitable):
            await found

    trial.handler("work", do)
    trial.start()
    trial.feed("k:bad", "k:behind")
    await trial.until(lambda: bool(trial.processor.halted))
    assert trial.processor.halted.startswith(
        "t-0 offset 0 is not handled, and nothing after it: table 'stats': the row whose"
    )
    assert "$: Object missing required field `last`" in trial.processor.halted
    assert (trial.letters, trial.counts["retried"], trial.names(), trial.faults) == (
        [],
        0,
        ["bad"],
        [],
    )
    assert not trial.processor.checkpointed_offset
    await trial.kill()
    trial.stored[row] = b'{"n":1,"last":"x"}'
    trial.start()
    await trial.settled(2)
    assert (trial.names(), trial.letters, trial.processor.halted) == (
        ["bad", "bad", "behind"],
        [],
        "",
    )


async def test_a_handler_may_write_over_it(make: Make) -> None:
    """A handler that catches the error is trusted with the new value."""
    trial = make()
    row = row_key("stats", b"k")
    trial.stored[row] = b"\xff"
    table: Table[Any, Any] = Table("stats", str, int, default=None, held={})

    async def do(_: Try) -> None:
        try:
            table["k"] += 1
        except Exception:  # as handlers do
            table["k"] = 1

    trial.handler("work", do)
    trial.start()
    trial.feed("k:a", "k:b")
    await trial.settled(2)
    assert (trial.stored[row], trial.letters) == (b"2", [])


async def test_what_cannot_be_kept_and_what_would_be_lost_are_the_events_fault(make: Make) -> None:
    """The row does not change, and later events of the key are handled."""
    trial = make()
    means: Table[Any, Any] = Table("means", str, float, default=float, held={})
    names: Table[Any, Any] = Table("names", str, list[str], default=list, held={})

    async def do(event: Try) -> None:
        means["k"] = float("nan") if event.name == "nan" else means["k"] + 1
        if event.name == "lost":
            names["k"].append("x")

    trial.handler("work", do, unclassified="permanent")
    trial.start()
    trial.feed("k:a", "k:nan", "k:lost", "k:b")
    await trial.settled(4)
    assert [(letter.name, letter.kind) for letter in trial.letters] == [
        ("nan", "permanent"),
        ("lost", "permanent"),
    ]
    assert trial.stored[row_key("means", b"k")] == b"2.0"
    assert row_key("names", b"k") not in trial.stored


async def test_an_event_that_does_nothing_else_is_looked_at_too(make: Make) -> None:
    """The event has no mark, row or published event, hence nothing to settle."""
    trial = make(dedupe=None)
    names: Table[Any, Any] = Table("names", str, list[str], default=list, held={})

    async def call(event: Try) -> None:
        names[event.key].append("x")

    trial.dispatcher.add(handler_for(Try, call, Policy(Retry(), unclassified="permanent"), NEVER))
    trial.start()
    trial.feed("k:lost")
    await trial.settled(1)
    assert [(letter.name, letter.kind) for letter in trial.letters] == [("lost", "permanent")]


# Export, import and count.


@pytest.fixture
def visits() -> Subscription:
    """Return a subscription with tables of several kinds."""
    topic: Any = SimpleNamespace(topics=["visits"])
    made = Subscription(
        "visits", topic, Options("ignore", "key", None, "skip"), {}, "famulus-visits-state"
    )
    made.Table("stats", key=int, value=Stats)
    made.Table("means", key=str, value=float)
    made.Table("owners", key=Place, value=str)
    made.Table("per_hour", key=str, value=int).tumbling(
        timedelta(hours=1), expires=timedelta(days=1)
    )
    return made


ROWS = [
    ("stats", b"5", b'{"n":1,"last":"x"}', ""),
    ("stats", b"6", b'{"n":1}', "$: Object missing required field `last`"),
    ("stats", b"six", b'{"n":1,"last":"x"}', "its key, $: "),
    ("stats", b"\xff", b"\xfe\n", "its key, $: "),
    ("means", b"a", b"null", "$: Expected `float`, got `null`"),
    ("means", b"b", b'{\n"a":1}', "$: Expected `float`, got `object`"),
    ("means", b"c", b"1.5", ""),
    ("owners", b'{"name":"a","rent":"1.50"}', b'"x"', ""),
    ("per_hour", b"short", b"1", "its key, the key has no window's beginning"),
    ("per_hour", (3_600_000 * 500_000_000).to_bytes(8, "big") + b"k", b"1", ""),
    ("per_hour", (-3_600_000).to_bytes(8, "big", signed=True) + b"k", b"1", ""),
]


def test_rows_that_cannot_be_read_leave_an_export_and_come_back_as_they_were(
    visits: Subscription, tmp_path: Path
) -> None:
    """Each line gives the reason, and the other rows are exported as usual.

    An operator who corrects a line removes `unreadable` from it.
    """
    lines = [line_of(visits.tables[name], key, 3, value) for name, key, value, _ in ROWS]
    for line, (_, _, _, why) in zip(lines, ROWS, strict=True):
        assert line.unreadable.startswith(why)
        assert bool(line.unreadable) == bool(why)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    rows = read_lines(visits, file, 5, 1000, is_kept=True)
    assert rows == {3: {row_key(name, key): value for name, key, value, _ in ROWS}}
    [_, old, *_] = file.read_text().splitlines()
    assert json.loads(old) == {
        "table": "stats",
        "key": 6,
        "value": {"n": 1},
        "partition": 3,
        "unreadable": "$: Object missing required field `last`",
    }
    file.write_text(
        json.dumps({"table": "stats", "key": 6, "value": {"n": 1, "last": ""}, "partition": 3})
    )
    assert read_lines(visits, file, 5, 1000, is_kept=True) == {
        3: {row_key("stats", b"6"): b'{"n":1,"last":""}'}
    }
    for wrong in ({"value": {"n": 1}}, {"value": {"n": 1, "last": ""}, "raw_value": "AA=="}):
        file.write_text(json.dumps({"table": "stats", "key": 6, "partition": 3, **wrong}))
        with pytest.raises(ConfigError, match="line 1: "):
            read_lines(visits, file, 5, 1000, is_kept=True)


def test_they_are_counted_by_table(visits: Subscription) -> None:
    """Rows of undeclared tables do not count."""
    fold = Fold(
        rows={row_key(name, key): value for name, key, value, _ in ROWS}
        | {row_key("gone", b"k"): b"\xff"}
    )
    assert all(key[:1] == ROW for key in fold.rows)
    assert unreadable_rows(visits, fold) == Counter(stats=3, means=2, per_hour=1)
