"""Checks of declarations: a wrong option is a ConfigError of one line with file and line.

Option values come from code, so short ones are quoted; others are named by their type.
"""

import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from famulus.errors import ConfigError
from famulus.spelling import nearest, plain

ENGINE = Path(__file__).resolve().parent
TOPIC_BYTES_MAX = 249  # Kafka's own limit
_topic = re.compile(r"[A-Za-z0-9._-]+")
_name = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.<>:-]*")
NAME_MAX = 200


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def place_of(file: str, line: int) -> Place:
    """Make the place of a *line*, with the path of *file* relative to the project if possible."""
    path, project = Path(file), Path.cwd()
    return Place(str(path.relative_to(project) if path.is_relative_to(project) else path), line)


def calling() -> Place:
    """Find the line outside of the engine that called it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(
        (f"{ENGINE}/", "<string>")
    ):
        frame = frame.f_back
    return place_of(frame.f_code.co_filename, frame.f_lineno)


def shown(value: object) -> str:
    """Say what was given, as code says it, on one line."""
    if value is None or (
        isinstance(value, (str, bytes, bool, int, float)) and type(value).__module__ == "builtins"
    ):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}…"  # enough to find it
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a value of type {type(value).__name__}"


class Declaration:
    """One call that declares something: *of* says which, such as `app.subscription("orders")`."""

    def __init__(self, of: str, place: Place | None = None) -> None:
        self.of = of
        self.place = place or calling()

    def error(self, what: str) -> ConfigError:
        """Make the error that says *what* is wrong, and where."""
        return ConfigError(f"{self.of}: {what} ({self.place})")

    def wrong(self, option: str, wanted: str, value: object) -> ConfigError:
        """Make the error of an *option* that must be what is *wanted*, and was given *value*."""
        return self.error(f"{option} must be {wanted}, not {shown(value)}")

    def choice(self, option: str, value: object, allowed: Iterable[str]) -> None:
        """Refuse what is none of the words *allowed*."""
        known = {plain(word): word for word in allowed}
        if isinstance(value, str) and value in known.values():
            return
        words = [f'"{word}"' for word in known.values()]
        near = nearest(plain(value), known) if isinstance(value, str) else None
        hint = f'; did you mean "{known[near]}"?' if near else ""
        raise self.error(
            f"{option} must be {', '.join(words[:-1])} or {words[-1]}, not {shown(value)}{hint}"
        )

    def flag(self, option: str, value: object) -> None:
        """Refuse what is neither True nor False."""
        if not isinstance(value, bool):
            raise self.wrong(option, "True or False", value)

    def text(self, option: str, value: object) -> None:
        """Refuse what is no text."""
        if not isinstance(value, str):
            raise self.wrong(option, "a text", value)

    def printable(self, option: str, value: object, most: int) -> None:
        """Refuse a text that a terminal cannot show, or that has more than *most* bytes."""
        if (
            not isinstance(value, str)
            or not value
            or not value.isprintable()
            or len(value.encode()) > most
        ):
            raise self.wrong(option, f"a text of 1 to {most} printable bytes", value)

    def name(self, option: str, value: object) -> None:
        """Refuse what cannot stand in a header, a metric and a URL."""
        if not isinstance(value, str) or not _name.fullmatch(value) or len(value) > NAME_MAX:
            wanted = f"a name of letters, digits and _ . : - < >, at most {NAME_MAX} characters"
            raise self.wrong(option, wanted, value)

    def topic(self, option: str, value: object) -> None:
        """Refuse what Kafka takes for no topic's name."""
        if (
            not isinstance(value, str)
            or value in (".", "..")
            or not _topic.fullmatch(value)
            or len(value) > TOPIC_BYTES_MAX
        ):
            wanted = (
                f"the name of a topic: at most {TOPIC_BYTES_MAX} letters, digits, dots, "
                "dashes and underscores"
            )
            raise self.wrong(option, wanted, value)

    def number(
        self,
        option: str,
        value: object,
        least: float = 0.0,
        most: float = math.inf,
        *,
        is_whole: bool = False,
    ) -> None:
        """Refuse what is no finite number from *least* to *most*."""
        kinds = int if is_whole else (int, float)
        is_number = (
            isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        )
        # A number by then.
        if not is_number or not least <= value <= most:  # type: ignore[operator]
            kind = "a whole number" if is_whole else "a number"
            limits = f"from {least:g} to {most:g}" if most < math.inf else f"of at least {least:g}"
            raise self.wrong(option, f"{kind} {limits}", value)

    def kind(self, option: str, value: object, wanted: type) -> None:
        """Refuse what is no instance of *wanted*."""
        if not isinstance(value, wanted):
            hint = f"; write {wanted.__name__}(...)" if value is wanted else ""
            raise self.error(f"{option} must be a {wanted.__name__}, not {shown(value)}{hint}")

    def errors(self, option: str, value: Any) -> tuple[type[Exception], ...]:  # Any: of users
        """Make a tuple of classes of exceptions; a single one may stand for itself."""
        if isinstance(value, type) and issubclass(value, Exception):
            return (value,)
        wanted = f"a tuple of classes of exceptions, such as {option}=(ConnectionError,)"
        if not isinstance(value, (tuple, list, set, frozenset)):
            raise self.wrong(option, wanted, value)
        for each in value:
            if not (isinstance(each, type) and issubclass(each, Exception)):
                raise self.error(f"{option} must be {wanted}, and has {shown(each)}")
        return tuple(value)
