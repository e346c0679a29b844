"""Tests of state import from JSON lines: rows of the changelog, and the first wrong line."""

import json
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import faust
import pytest

from famulus.cli.state.json_lines import read_lines
from famulus.errors import ConfigError
from famulus.kafka.partitioner import murmur2
from famulus.processing.subscription import Options, Subscription
from famulus.state.changelog import row_key, table_and_key

PARTITIONS = 5
KEY = UUID(int=7)


class Stay(faust.Record):
    """A row with a field for which JSON has no type."""

    count: int
    paid: Decimal


@pytest.fixture
def visits() -> Subscription:
    """Return a subscription with a table of each kind."""
    topic: Any = SimpleNamespace(topics=["visits"])
    made = Subscription(
        "visits", topic, Options("ignore", "key", None, "skip"), {}, "famulus-visits-state"
    )
    made.Table("stays", key=UUID, value=Stay)
    made.Table("numbers", key=int, value=Decimal)
    made.Table("per_hour", key=str, value=int).tumbling(
        timedelta(hours=1), expires=timedelta(days=1)
    )
    return made


def lines_of(folder: Path, *lines: dict[str, Any]) -> Path:
    """Write a file of such lines, and return its path."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_each_row_goes_where_the_events_of_its_key_go(visits: Subscription, tmp_path: Path) -> None:
    """A window's row belongs to the partition of the key in it.

    An export returns the same lines.
    """
    lines: list[dict[str, Any]] = [
        {"table": "stays", "key": str(KEY), "value": {"count": 1, "paid": "0.50"}},
        {"table": "numbers", "key": -12, "value": "1.50"},
        {"table": "per_hour", "key": "2026-01-01T01:00:00+00:00/a/b", "value": 3},
    ]
    rows = read_lines(visits, lines_of(tmp_path, *lines), PARTITIONS, 1000, is_kept=False)
    assert sorted(partition for partition, of in rows.items() for _ in of) == sorted(
        murmur2(key, PARTITIONS) for key in (str(KEY).encode(), b"-12", b"a/b")
    )
    found = []
    for row, value in (pair for of in rows.values() for pair in of.items()):
        name, key = table_and_key(row)
        text, content = visits.tables[name].as_json(key, value)
        found.append({"table": name, "key": json.loads(text), "value": json.loads(content)})
    assert sorted(found, key=str) == sorted(lines, key=str)


def test_rows_may_stay_in_their_partitions(visits: Subscription, tmp_path: Path) -> None:
    """A table whose keys differ from those of its events has rows of one key in many partitions."""
    lines = [{"table": "numbers", "key": 1, "value": "1", "partition": number} for number in (0, 4)]
    rows = read_lines(visits, lines_of(tmp_path, *lines), PARTITIONS, 1000, is_kept=True)
    assert rows == {number: {row_key("numbers", b"1"): b'"1"'} for number in (0, 4)}
    with pytest.raises(ConfigError, match=r"line 2: the row of line 1 again.*--keep-partition"):
        read_lines(visits, lines_of(tmp_path, *lines), PARTITIONS, 1000, is_kept=False)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"table": "nothing", "key": 1, "value": 1},
            "no table 'nothing'; there are: stays, numbers, per_hour",
        ),
        ({"table": "numbers", "key": 1}, "value"),
        ({"table": "numbers", "key": "one", "value": "1"}, "int"),
        ({"table": "numbers", "key": 1, "value": "secret"}, "decimal"),
        ({"table": "stays", "key": str(KEY), "value": {"count": 1}}, "paid"),
        ({"table": "per_hour", "key": "today/a", "value": 1}, "isoformat"),
        (
            {"table": "per_hour", "key": "2026-01-01T00:10:00/a", "value": 1},
            "no window of the table begins",
        ),
        (
            {"table": "per_hour", "key": "2026-01-01T00:00:00/" + "a" * 999, "value": 1},
            "at most 1000",
        ),
        ({"table": "numbers", "key": 1, "value": "1", "when": 1}, "when"),
    ],
)
def test_the_first_wrong_line_is_named(
    visits: Subscription, tmp_path: Path, wrong: dict[str, Any], says: str
) -> None:
    """The error is one line, names the valid choices, and does not quote the value."""
    fine = {"table": "numbers", "key": 3, "value": "1"}
    with pytest.raises(ConfigError, match=r"line 2: ") as error:
        read_lines(visits, lines_of(tmp_path, fine, wrong, wrong), PARTITIONS, 1000, is_kept=False)
    assert says in error.value.message
    assert "secret" not in error.value.message


def test_a_partition_that_is_not_there_is_refused(visits: Subscription, tmp_path: Path) -> None:
    """A line without a partition is refused as well."""
    for partition in ({"partition": PARTITIONS}, {}):
        file = lines_of(tmp_path, {"table": "numbers", "key": 3, "value": "1", **partition})
        with pytest.raises(ConfigError, match="none of the topic's 5"):
            read_lines(visits, file, PARTITIONS, 1000, is_kept=True)
