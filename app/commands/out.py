"""What commands write: text that is not marked up, JSON a line, notes beside it."""

import sys

import click
import msgspec
from rich.console import Console, RenderableType
from rich.text import Text

from app.text import printable

PIPE_WIDTH = 120


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
