"""`dlq redrive --edit`: a person changes an event's value, and it leaves only when it is an event then."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import msgspec

from famulus.cli.output import is_answering
from famulus.errors import OperatingError


def edited(value: bytes | None, fault_in: Callable[[bytes], str]) -> bytes:
    """*value* as somebody left it in $EDITOR.

    *fault_in* says what is wrong with one, nothing if it is an event.

    Raises click.Abort when nothing was changed, OperatingError when it is wrong and nobody is there
    to go on with it.
    """
    text = _text(value)
    while True:
        with _ended_in_order():
            changed = click.edit(text, extension=".json")
        if changed is None or changed == text:
            raise click.Abort
        made = _bytes(changed)
        fault = fault_in(made)
        if not fault:
            return made
        said = f"that is not an event of its type: {fault}"
        if not is_answering():
            raise OperatingError(f"{said}; nothing was sent")
        click.confirm(f"{said}\nEdit it again?", abort=True, err=True)
        text = changed


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Have signals that end a process raise SystemExit here: the file with the event's value goes then, too."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _text(value: bytes | None) -> str:
    """JSON in lines, anything else as it is."""
    try:
        return msgspec.json.format(value or b"", indent=2).decode() + "\n"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return (value or b"").decode("utf-8", "backslashreplace")


def _bytes(text: str) -> bytes:
    """JSON without the blanks between, which were put there for people."""
    try:
        return msgspec.json.format(text, indent=-1).encode()
    except (msgspec.DecodeError, RecursionError):
        return text.encode()
