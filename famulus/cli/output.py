"""The only way in which commands write: text that is not marked up, JSON a line, notes beside it.

Whatever the text, a terminal obeys nothing in it: a plain line is escaped by the stream
(`streams`), a styled one where rich gives it away, and JSON has escapes of its own, with which it
is the same JSON.
"""

import sys
from collections.abc import Iterable

import msgspec
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.text import Text

from famulus.formatting import ascii_json, printable, printable_json, printable_lines

PIPE_WIDTH = 120


class Out(Console):
    """Standard output, or error, for text that is not marked up."""

    def put(self, what: RenderableType) -> None:
        """Print it, without the blanks at the ends of lines when it goes to a file or a pipe."""
        if self.is_terminal:
            self.print(what)
            return
        with self.capture() as captured:
            self.print(what)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """What rich writes: texts are escaped here, behind everything that made them; its own controls are not."""
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=printable_lines(segment.text))
            for segment in buffer
        )


def console() -> Out:
    """Standard output, as wide as the terminal, or wide enough."""
    out = Out(highlight=False, markup=False, emoji=False)
    if not out.is_terminal and not out.legacy_windows and "COLUMNS" not in out._environ:
        out.width = PIPE_WIDTH
    return out


def error_console() -> Out:
    """Standard error, for bars that show how far it is."""
    return Out(stderr=True, highlight=False, markup=False, emoji=False)


def print_note(text: str) -> None:
    """A line on stderr, beside what was asked for. A terminal gets it in whole words."""
    err = error_console()
    if err.is_terminal:
        err.print(Text(printable(text)))
    else:
        print(printable(text), file=sys.stderr)  # noqa: T201  # here alone


def put_line(text: str) -> None:
    """A line on stdout, or several."""
    print(printable_lines(text))  # noqa: T201  # here alone


def print_text(what: object) -> None:
    """One line of JSON."""
    print_json(msgspec.json.encode(what))


def print_json(encoded: bytes) -> None:
    """The same for what is JSON already. Where stdout is no UTF-8, it has ASCII alone."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    # Here alone.
    print(printable_json(encoded) if is_unicode else ascii_json(encoded))  # noqa: T201


def raw_json(value: bytes | None) -> msgspec.Raw | None:
    """*value* as a part of a line of JSON, None where it is none, or nested too deeply for whoever reads the line."""
    try:
        return (
            msgspec.Raw(msgspec.json.format(value.decode(), indent=-1).encode()) if value else None
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_answering() -> bool:
    """Whether somebody is there who can be asked."""
    return sys.stdin.isatty()
