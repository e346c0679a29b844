"""What commands write: text that is not marked up, JSON a line, notes beside it; keys and values for people."""

import sys

import click
import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from app.deadletter.selection import text_of
from app.text import number, printable, short

PIPE_WIDTH = 120
LINES_MAX = 200  # of a value
HEX_BYTES_MAX = 512


class Out(Console):
    """Standard output, for text that is not marked up."""

    def put(self, what: RenderableType) -> None:
        """Print it, without the blanks at the ends of lines when it goes to a file or a pipe."""
        if self.is_terminal:
            self.print(what)
            return
        with self.capture() as captured:
            self.print(what)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def console() -> Out:
    """It, as wide as the terminal, or wide enough."""
    out = Out(highlight=False, markup=False, emoji=False)
    if not out.is_terminal and not out.legacy_windows and "COLUMNS" not in out._environ:
        out.width = PIPE_WIDTH
    return out


def note(text: str) -> None:
    """A line on stderr, beside what was asked for. A terminal gets it in whole words."""
    err = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if err.is_terminal:
        err.print(Text(printable(text)))
    else:
        click.echo(printable(text), err=True)


def say(what: object) -> None:
    """One line of JSON."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")


def key_text(key: bytes | None) -> str:
    """A key on a terminal."""
    return "(none)" if key is None else printable(text_of(key))


def value_text(value: bytes | None) -> str:
    """A value as people read it: JSON by lines, other text escaped, anything else in hexadecimal; not all if long."""
    if value is None:
        return "no value"
    try:
        lines = msgspec.json.format(value, indent=2).decode().splitlines()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines = _escaped(value)
    more = len(lines) - LINES_MAX
    lines = [printable(short(line, 2_000)) for line in lines[:LINES_MAX]]
    return "\n".join([*lines, *([f"… {number(more, 'more line')}: --json shows all"] if more > 0 else [])])


def _escaped(value: bytes) -> list[str]:
    try:
        return [value.decode()]
    except UnicodeDecodeError:
        rows = [value[at : at + 16] for at in range(0, min(len(value), HEX_BYTES_MAX), 16)]
        shown = [f"{row.hex(' '):47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}" for row in rows]
        left = len(value) - HEX_BYTES_MAX
        return shown + ([f"… {number(left, 'more byte')}: --json shows all"] if left > 0 else [])
