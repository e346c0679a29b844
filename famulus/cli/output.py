"""Output of all commands: plain text, lines of JSON, and notes on stderr.

No command writes in another way. Control characters in a text never reach a terminal. A plain line
is escaped by the stream (`standard_streams`), a styled text when rich writes it. JSON is escaped by
escapes of its own, so its meaning stays.
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
    """Console for text without markup, on standard output or standard error."""

    def put(self, what: RenderableType) -> None:
        """Print *what*, without trailing blanks unless the output is a terminal."""
        if self.is_terminal:
            self.print(what)
            return
        with self.capture() as captured:
            self.print(what)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """Render *buffer* with its texts escaped, but not the control codes of rich.

        The texts are escaped here because this is the last step, after everything that produced
        them.
        """
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=printable_lines(segment.text))
            for segment in buffer
        )


def console() -> Out:
    """Return a console on standard output.

    The console is as wide as the terminal. A file or a pipe gets 120 columns, unless COLUMNS is
    set.
    """
    out = Out(highlight=False, markup=False, emoji=False)
    if not out.is_terminal and not out.legacy_windows and "COLUMNS" not in out._environ:
        out.width = PIPE_WIDTH
    return out


def error_console() -> Out:
    """Return a console on standard error, for progress bars."""
    return Out(stderr=True, highlight=False, markup=False, emoji=False)


def print_note(text: str) -> None:
    """Print *text* as a line on stderr, apart from the output of the command.

    A terminal gets the line wrapped between words.
    """
    err = error_console()
    if err.is_terminal:
        err.print(Text(printable(text)))
    else:
        print(printable(text), file=sys.stderr)  # noqa: T201  # only this module prints


def put_line(text: str) -> None:
    """Print *text*, one line or several, on stdout."""
    print(printable_lines(text))  # noqa: T201  # only this module prints


def print_text(what: object) -> None:
    """Print *what* as one line of JSON."""
    print_json(msgspec.json.encode(what))


def print_json(encoded: bytes) -> None:
    """Print *encoded*, which is JSON already, as one line.

    The line is ASCII only, unless the encoding of stdout is a Unicode one.
    """
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    # Only this module prints.
    print(printable_json(encoded) if is_unicode else ascii_json(encoded))  # noqa: T201


def raw_json(value: bytes | None) -> msgspec.Raw | None:
    """Return *value* as a part of a line of JSON, None when it cannot be one.

    None stands for an empty value, for one that is not JSON, and for one nested too deeply.
    """
    try:
        return (
            msgspec.Raw(msgspec.json.format(value.decode(), indent=-1).encode()) if value else None
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def is_answering() -> bool:
    """Return whether standard input is a terminal, so that a user can answer questions."""
    return sys.stdin.isatty()
