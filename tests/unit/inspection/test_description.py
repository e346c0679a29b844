"""Tests of displayed dead letters: escaped values, differences, and the editing of a value."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.cli.dlq.edit import edited
from famulus.cli.dlq.render import tables
from famulus.cli.dlq.render.page import difference_table
from famulus.cli.output import Out
from famulus.deadletter.dead_letter import Cause
from famulus.errors import OperatingError
from famulus.formatting import LINES_MAX, printable, short, time_text, value_text
from famulus.inspection.deadletters.causes import CauseGroup
from famulus.inspection.deadletters.description import difference_rows
from famulus.inspection.deadletters.diff import differences
from famulus.inspection.deadletters.reader import runs
from famulus.inspection.deadletters.redelivery_builder import batches

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5)
    ),
)
EVIL = "\x1b[2J\x07\u202e\n"


def printed(what: Any, width: int = 80) -> str:
    """Return the text that a terminal of that width gets."""
    out = Out(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    out.put(what)
    file: Any = out.file
    return str(file.getvalue())


# Differences.


def test_fields_are_missing_added_of_another_type_or_value() -> None:
    good = {
        "id": 1,
        "gone": True,
        "items": [{"price": "1.00"}, {"price": "2.00"}],
        "note": None,
        "at": "now",
    }
    here = {"id": 2, "items": [{"price": 1.0}], "note": "x", "at": "now", "new field": {}}
    assert [(d.what, d.path, d.here, d.there) for d in differences(here, good)] == [
        ("missing", "$.gone", None, True),
        ("missing", "$.items[1]", None, {"price": "2.00"}),
        ("added", "$['new field']", {}, None),
        ("type", "$.items[0].price", 1.0, "1.00"),
        ("type", "$.note", "x", None),
        ("value", "$.id", 2, 1),
    ]


def test_equal_values_have_no_differences() -> None:
    """An integer and a float may be equal, but a boolean and a number may not."""
    assert differences({"a": [1, None]}, {"a": [1.0, None]}) == []
    assert [d.what for d in differences({"a": True}, {"a": 1})] == ["type"]
    assert [d.path for d in differences([], {})] == ["$"]


def test_a_value_may_be_nested_deeply() -> None:
    """The comparison must not recurse."""
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert [d.path.count("[0]") for d in differences(deep, [])] == [1]
    assert differences(deep, deep) == []


def test_a_page_takes_memory_in_proportion_to_the_values() -> None:
    """Deep nesting and long field names do not multiply it."""

    def nested(levels: int, leaf: Any) -> Any:
        value = leaf
        for level in range(levels):
            value = {f"{level:04}".ljust(2_000, "x"): value, "y": level, "z": leaf}
        return value

    here, there = nested(420, 1), nested(420, "1")
    value = json.dumps(here).encode()
    tracemalloc.start()
    try:
        rows, left = difference_rows(differences(here, there), "$." + "x" * 1_000_000)
        text = value_text(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(rows), left) == (100, 321)
    assert max(len(row.path) for row in rows) < 1_100
    assert "more lines" in text
    assert peak < 6 * len(value)


def test_only_so_many_differences_are_kept_and_the_others_counted() -> None:
    """The most informative differences still come first.

    A list accounts for its actual length at most.
    """
    found = differences([*range(50_000), {"a": 1}], [*range(1, 50_001), {"a": "1"}, None])
    assert (len(found), found.left) == (1_002, 49_000)
    assert [each.path for each in found[:2]] == ["$[50001]", "$[50000].a"]
    assert difference_rows(found)[1] == 50_000 - 20


@given(JSON)
def test_values_are_shown_as_json_with_a_line_for_each(value: Any) -> None:
    """The format is that of msgspec."""
    text = json.dumps(value, ensure_ascii=False).encode()
    lines = msgspec.json.format(text, indent=2).decode().split("\n")
    if len(lines) <= LINES_MAX:
        assert value_text(text) == "\n".join(printable(short(line, 2_000)) for line in lines)


def test_the_fault_comes_first() -> None:
    """Missing fields would otherwise come first."""
    found = differences({"a": "twelve", "b": EVIL}, {"a": "12", "b": 1, "c": 1})
    first, *_ = printed(difference_table(found, "here", "there", "$.a")).splitlines()[1:]
    assert first.split() == ["$.a", "at", "fault", '"twelve"', '"12"']


# Output to a terminal.


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    """Control characters may be in keys, messages and names."""
    cause = Cause("permanent", f"h{EVIL}", f"E{EVIL}", f"p{EVIL}")
    entry: Any = SimpleNamespace(id=SimpleNamespace(origin="o"))
    group = CauseGroup(cause, 1, 0, 0, [EVIL.encode()], entry, EVIL)
    for width in (40, 80, 140):
        text = printed(tables.causes([group], width), width)
        assert all(c.isprintable() or c == "\n" for c in text)
        assert all(len(line) <= width for line in text.splitlines())
    assert printable(EVIL + "\ud800") == "\\x1b[2J\\x07\\u202e\\n\\ud800"


def test_what_goes_into_a_pipe_has_no_blanks_at_the_end() -> None:
    entry: Any = SimpleNamespace()  # not read
    group = CauseGroup(Cause("permanent", "a.b", "E", "m:1"), 1, 0, 1, [b"k"], entry, "why")
    assert all(
        line == line.rstrip() for line in printed(tables.causes([group], 120), 120).splitlines()
    )


@pytest.mark.parametrize(
    ("value", "shows"),
    [
        (b'{"a":1.10,"b":"\xc3\xbc"}', '{\n  "a": 1.10,\n  "b": "ü"\n}'),
        (b'"\xe2\x80\xae"', '"\\u202e"'),
        (b'{"a": \x1b', '{"a": \\x1b'),
        (b"\x00\xffAB", f"{'00 ff 41 42':47}  ..AB"),
        (b"", ""),
        (None, "no value"),
    ],
)
def test_a_value_is_shown_as_what_it_is(value: bytes | None, shows: str) -> None:
    """JSON has a line for each value and keeps every digit.

    Other text is escaped, and the remainder is hexadecimal.
    """
    assert value_text(value) == shows


def test_a_long_value_is_cut() -> None:
    """The last line states how much is missing."""
    assert value_text(json.dumps(list(range(1000))).encode()).endswith(
        "802 more lines: --json shows all"
    )
    assert value_text(b"\xff" * 1000).endswith("488 more bytes: --json shows all")
    assert len(value_text(json.dumps("x" * 100_000).encode())) == 2_000


def test_a_time_may_be_one_that_no_calendar_has() -> None:
    """Producers choose the timestamps."""
    assert time_text(1_800_000_000_123) == "2027-01-15 08:00:00"
    assert time_text(10**17) == f"{10**17} ms"
    assert time_text(-1) == "1969-12-31 23:59:59"


# Reading and sending.


def test_what_is_near_is_read_in_one_go() -> None:
    """Reading a small gap costs less than another request."""
    assert runs([1, 2, 5, 20], gap=10) == [(1, 6), (20, 21)]
    assert runs([]) == []


def test_batches_are_small_where_there_is_a_rate_and_never_huge() -> None:
    """The pace is then even, and the memory bounded."""
    entries: Any = [SimpleNamespace(size=10 * 2**20 if n == 3 else 2**20) for n in range(30)]
    assert [len(batch) for batch in batches(entries, 20)] == [5] * 6
    assert [len(batch) for batch in batches(entries, 2)] == [1] * 30
    assert [len(batch) for batch in batches(entries, 0)] == [7, 16, 7]
    assert list(batches([], 0)) == []


# Editing.


def editor(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Use a shell script as the editor."""
    file = folder / "editor"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(file))


def test_an_edited_value_is_json_without_blanks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The editor shows it in lines, and numbers keep their digits."""
    editor(
        tmp_path, monkeypatch, 'grep -q \'^  "a": 1.10,$\' "$1" && sed -i \'s/true/false/\' "$1"'
    )
    assert edited(b'{"a":1.10,"b":true}', lambda _: "") == b'{"a":1.10,"b":false}'


def test_an_editor_that_changes_nothing_sends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The editor may have saved the file unchanged."""
    for script in ("true", 'touch -d "now + 1 minute" "$1"'):
        editor(tmp_path, monkeypatch, script)
        with pytest.raises(click.Abort):
            edited(b"{}", lambda _: "")


def test_a_wrong_value_is_said_to_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal it cannot be edited again, so that the command ends."""
    editor(tmp_path, monkeypatch, 'echo nonsense >> "$1"')
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(
        OperatingError, match=r"not an event of its type: \$: malformed; nothing was sent"
    ):
        edited(b"{}", lambda value: "$: malformed" if b"nonsense" in value else "")


def test_somebody_may_edit_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The editor continues with the changed text."""
    editor(tmp_path, monkeypatch, 'echo x >> "$1"')
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(click, "confirm", lambda *_, **__: True)
    assert edited(b"", lambda value: "" if value == b"x\nx\n" else "no") == b"x\nx\n"


EDITING = """
from famulus.cli.dlq.edit import edited
edited(b'{"a": "a secret of somebody"}', lambda value: "")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_value_that_is_edited_does_not_stay_on_the_disk(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The command is ended by a signal while the editor is open."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/open\nexec sleep 30\n')
    editor.chmod(0o700)
    environment = {
        **os.environ,
        "TMPDIR": str(folder),
        "EDITOR": str(editor),
        "VISUAL": str(editor),
    }
    editing = subprocess.Popen(
        [sys.executable, "-c", EDITING], env=environment, start_new_session=True
    )
    while not (tmp_path / "open").exists() or not (tmp_path / "open").read_text():
        assert editing.poll() is None
        time.sleep(0.02)
    assert len(list(folder.iterdir())) == 1
    editing.send_signal(number)
    assert editing.wait(20) == 128 + number
    assert list(folder.iterdir()) == []
    os.killpg(editing.pid, signal.SIGKILL)  # the editor
