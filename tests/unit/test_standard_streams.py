"""Tests of the output of commands: escapes, encodings, and streams that fail.

Control characters never reach a terminal. A closed or full stream ends a command with one line.
"""

import ast
import io
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from famulus.cli.output import Out, console, print_json, print_note, print_text, put_line
from famulus.errors import ConfigError
from famulus.formatting import ascii_json, printable_json, printable_lines
from famulus.standard_streams import SafeStream
from tests.support.in_memory.streaming import run
from tests.support.places import ROOT

unsafe = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
CONTROLS = [
    chr(c)
    for c in (
        *range(32),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0xD800,
        0xDC80,
        0x200B,
        0xFEFF,
        0xE0001,
    )
]
NASTY = "".join(CONTROLS)


def written(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of both streams."""
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("control", CONTROLS, ids=lambda c: f"U+{ord(c):04X}")
def test_no_way_of_writing_lets_a_control_character_pass(
    control: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines, notes, JSON, styled text and tables are written, to a pipe and to a terminal."""
    text = f"a{control}b"
    put_line(text)
    print_note(text)
    if not "\ud800" <= control <= "\udfff":  # lone surrogates are not valid in JSON
        print_text({text: [text]})
        print_json(msgspec.json.encode({"n": text}))
    table = Table(title=text)
    table.add_column(text)
    table.add_row(Text(text, "red"))
    console().put(table)
    console().print(text)
    shown = written(capsys)
    terminal = Out(
        file=io.StringIO(), force_terminal=True, highlight=False, markup=False, emoji=False
    )
    terminal.put(table)
    assert isinstance(terminal.file, io.StringIO)
    styled = re.sub(r"\x1b\[[0-9;]*m", "", terminal.file.getvalue())
    assert not unsafe.search(shown + styled)
    assert shown.count("\n") < 30
    assert not unsafe.search(ConfigError(text).format_message())


@given(
    content=st.recursive(
        st.text() | st.integers() | st.none(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_escaped_json_is_the_same_json(content: object) -> None:
    encoded = msgspec.json.encode(content)
    for escaped in (
        printable_json(encoded),
        ascii_json(encoded),
        printable_json(msgspec.json.format(encoded, indent=2)),
    ):
        assert json.loads(escaped) == content
        assert escaped.isprintable()
    assert ascii_json(encoded).isascii()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252", "utf-16", "koi8-r"])
def test_a_stream_takes_everything_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    """Characters that the encoding does not have are escaped."""
    file = tmp_path / "out"
    with file.open("wb") as opened:
        stream = SafeStream(opened.fileno(), encoding)
        stream.write(f"naïve 日本 🙂 {NASTY}\n")
        print("€", file=stream)  # print is tested here
        stream.flush()
    text = file.read_bytes().decode(encoding)
    assert not unsafe.search(text)
    assert len(text.splitlines()) == 3  # one of the controls is a line break
    assert "日本" in text or r"\u65e5\u672c" in text


def test_lines_and_tabs_stay() -> None:
    """Line ends and tabs do no harm in a terminal."""
    assert printable_lines("a\tb\nc\x1b") == "a\tb\nc\\x1b"


def test_commands_have_no_other_way_to_write() -> None:
    """Only the module `output` may print, echo or make a console."""
    found = []
    for path in (ROOT / "famulus" / "cli").rglob("*.py"):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            is_stderr = any(
                k.arg == "file" and ast.unparse(k.value) == "sys.stderr" for k in node.keywords
            )
            if (
                name in {"click.echo", "click.secho", "print", "Console", "rich.print", "os.write"}
                and not is_stderr
            ):
                found.append(f"{path.name}:{node.lineno} {name}")
            if name.startswith(
                ("sys.stdout.buffer", "sys.stderr.buffer", "sys.__stdout__", "sys.stdout.write")
            ):
                found.append(f"{path.name}:{node.lineno} {name}")
    assert not found


PLAIN = ["config", "show"], ["config", "show", "--json"], ["agents"], ["acls"]
STREAMS: list[tuple[dict[str, object], int, str]] = [
    ({"out": "full"}, 74, "Error: standard output cannot be written: No space left on device\n"),
    ({"out": "gone"}, 0, ""),
    ({"closed": "1"}, 74, "Error: standard output cannot be written: Bad file descriptor\n"),
    ({"closed": "0"}, 0, ""),
    ({"closed": "0 1 2"}, 74, ""),
    ({"encoding": "ascii"}, 0, ""),
    ({"encoding": "cp1252"}, 0, ""),
    ({"out": "terminal"}, 0, ""),
]


def test_commands_end_well_whatever_their_streams_are() -> None:
    """A command of Faust or of Famulus writes at most one line and no traceback.

    Its exit code tells the cause.
    """
    cases: list[dict[str, object]] = [
        {"command": command, **how} for how, _, _ in STREAMS for command in PLAIN
    ]
    ended = run(cases)
    for case, end, (_, code, err) in zip(
        cases, ended, [each for each in STREAMS for _ in PLAIN], strict=True
    ):
        assert (end["code"], end["err"]) == (code, err), case
    more: list[dict[str, object]] = [
        {"command": ["publish", "--dry-run"], "closed": "0"},
        {"command": ["model", "nope\x1b]0;x\x07"]},
        {"command": ["seek", "nowhere", "--to-end"], "closed": "0"},
        {"command": ["peek", "t", "--partition", "0", "--offset", "99999999999999999999"]},
    ]
    stdin, model, seek, peek = run(more)
    assert (stdin["code"], stdin["err"]) == (
        74,
        "Error: standard input cannot be read: Bad file descriptor\n",
    )
    assert model["code"] == 2
    assert r"Error: No model 'nope\x1b]0;x\x07'" in str(model["err"])
    assert "Traceback" not in str(seek["err"])
    assert (peek["code"], "9223372036854775807" in str(peek["err"])) == (2, True)


def test_a_setting_with_control_characters_is_shown_and_refused_in_one_line() -> None:
    """`config show` escapes the value."""
    group = "\x1b]0;title\x07\u202e\x9b2J"
    [shown] = run([{"command": ["config", "show"]}], WORKER__VERSION=group)
    assert shown["code"] == 0
    assert not unsafe.search(str(shown["out"]).encode("latin-1").decode())
