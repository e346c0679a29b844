"""`dlq redrive --edit`: change an event's value, which is sent only if it is valid then."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import msgspec

from famulus.cli.output import is_answering
from famulus.errors import OperatingError


def edited(value: bytes | None, fault_in: Callable[[bytes], str]) -> bytes:
    """Return *value* as the user changed it in $EDITOR.

    *fault_in* returns what is wrong with a value, and an empty text for a valid event. A wrong
    value may be edited again. Raises click.Abort when nothing was changed, or when the user does
    not edit it again; OperatingError when the value is wrong and standard input is not a terminal.
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
    """Raise SystemExit on SIGTERM and SIGHUP.

    click then deletes the temporary file, which holds the event's value.
    """

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _text(value: bytes | None) -> str:
    """Return indented JSON, or any other value as text."""
    try:
        return msgspec.json.format(value or b"", indent=2).decode() + "\n"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return (value or b"").decode("utf-8", "backslashreplace")


def _bytes(text: str) -> bytes:
    """Return JSON without the blanks that were added for the editor."""
    try:
        return msgspec.json.format(text, indent=-1).encode()
    except (msgspec.DecodeError, RecursionError):
        return text.encode()
