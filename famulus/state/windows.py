"""Windowed tables: separate rows for each span of time, by the time of the event.

    per_hour = orders.Table("per_hour", key=str, value=int, default=int).tumbling(
        timedelta(hours=1), expires=timedelta(days=2))
    per_hour[event.customer_id] += 1
    per_hour[event.customer_id].delta(timedelta(hours=1))       # the hour before

The time of an event is its record's timestamp, so an event that is handled again counts in the same
window. Windows start at multiples of the step since 1970.

A timestamp after the year 9999, such as one in microseconds, is replaced by the worker's clock, and
one before 1970 by 1970. Rows of such windows would otherwise never expire: stream time never
reaches the former, and the bytes of the latter sort after all others.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from famulus.declarations import Declaration

K = TypeVar("K")
V = TypeVar("V")
K_contra = TypeVar("K_contra", contravariant=True)
_start = struct.Struct(">q")
START_BYTES = _start.size
TIME_MAX_MS = 253_402_300_799_999  # the end of the year 9999
# From here on the bytes are not a time but the text of a key, from when the table had no windows.
STRAY_MAX_MS = 0x20 << 56
_number = re.compile(r"(-?\d{1,19}) ms")  # text of a time that no calendar date has


class NoWindowError(ValueError):
    """A key, or its text, does not begin with the start of a window."""


@dataclass(frozen=True, slots=True)
class Window:
    """Window definition, in milliseconds.

    *size_ms* is the length of a window, *step_ms* the distance between the starts of two windows,
    and *expires_ms* the time for which rows are kept after the end of their window.
    """

    size_ms: int
    step_ms: int
    expires_ms: int

    @classmethod
    def of(cls, size: timedelta, step: timedelta, expires: timedelta) -> "Window":
        """Make a window from time spans.

        Raises ConfigError when *step* is not above 0 or is longer than *size*, so that some times
        would be in no window, or when *expires* is negative.
        """
        declared = Declaration("a table's window")
        for option, length in {"size": size, "step": step, "expires": expires}.items():
            declared.kind(option, length, timedelta)
        lengths = [length // timedelta(milliseconds=1) for length in (size, step, expires)]
        if not 0 < lengths[1] <= lengths[0] or lengths[2] < 0:
            raise declared.error(
                f"a size of {size} every {step}, kept for {expires}: the step must be above 0 "
                "and at most the size"
            )
        return cls(*lengths)

    def starts(self, at_ms: int) -> range:
        """Return the starts of the windows that contain *at_ms*, oldest first.

        For a time after 1970 there is no window that starts before 1970.
        """
        newest = at_ms - at_ms % self.step_ms
        oldest = newest - (self.size_ms - 1 - at_ms % self.step_ms) // self.step_ms * self.step_ms
        return range(max(oldest, 0) if at_ms >= 0 else oldest, newest + 1, self.step_ms)

    def is_stray(self, start_ms: int) -> bool:
        """Return True if a window starts at *start_ms* that no event reaches.

        Earlier versions wrote rows of such windows.
        """
        is_outside = -(1 << 56) < start_ms < 0 or TIME_MAX_MS < start_ms < STRAY_MAX_MS
        return is_outside and not start_ms % self.step_ms

    def expired_before(self, stream_ms: int) -> int:
        """Return the start before which windows have expired, at the stream time *stream_ms*."""
        return stream_ms - self.size_ms - self.expires_ms + 1


def in_window(start_ms: int, key: bytes) -> bytes:
    """Return the key of a row of the window that starts at *start_ms*.

    The bytes of such keys sort by time.
    """
    return _start.pack(start_ms) + key


def start_of(raw: bytes) -> int:
    """Return the start of the window in a key made by `in_window`, in milliseconds since 1970.

    Raises NoWindowError when the key is too short.
    """
    if len(raw) < START_BYTES:
        raise NoWindowError("the key has no window's beginning")
    return int(_start.unpack_from(raw)[0])


def text_of(raw: bytes) -> str:
    """Return the text of a window key: the window's start, a slash, the key.

    A start that no calendar date has is written as a number. Raises NoWindowError as `start_of`
    does.
    """
    start_ms, key = start_of(raw), raw[START_BYTES:].decode("utf-8", "backslashreplace")
    try:
        return f"{datetime.fromtimestamp(start_ms / 1000, UTC).isoformat()}/{key}"
    except (ValueError, OverflowError, OSError):
        return f"{start_ms} ms/{key}"


def from_text(text: str) -> bytes:
    """Return the bytes of a window key from its text.

    A time without a zone is UTC. Raises NoWindowError when the text is not valid.
    """
    written, _, key = text.partition("/")
    if number := _number.fullmatch(written):
        try:
            return in_window(int(number[1]), key.encode())
        except struct.error:
            raise NoWindowError("more milliseconds than a time has") from None
    try:
        begin = datetime.fromisoformat(written)
    except ValueError as error:
        raise NoWindowError(str(error)) from None
    begin = begin if begin.tzinfo is not None else begin.replace(tzinfo=UTC)
    return in_window(round(begin.timestamp() * 1000), key.encode())


class WindowRows(Protocol[K_contra, V]):
    """The part of a table that windows need."""

    def in_window(self, start_ms: int, key: K_contra) -> V:
        """Return the value of the row in one window.

        Raises KeyError when there is none and the table has no default.
        """

    def set_in_window(self, start_ms: int, key: K_contra, value: V) -> None:
        """Set the row in one window."""

    def now_ms(self) -> int:
        """Return the time of the event being handled, in milliseconds since 1970.

        Outside a handler this is the wall clock.
        """


class Windowed(Generic[K, V]):
    """A table with windows.

    `table[key]` stands for the rows of *key* in all windows that contain the event's time.
    """

    def __init__(self, rows: WindowRows[K, V], window: Window) -> None:
        self._rows = rows
        self.window = window

    def __getitem__(self, key: K) -> "WindowSet[K, V]":
        return WindowSet(self._rows, self.window, key)

    def __setitem__(self, key: K, value: "V | WindowSet[K, V]") -> None:
        if not isinstance(value, WindowSet):  # else it is the result of `+=`, already written
            self[key].apply(lambda _: value)


class WindowSet(Generic[K, V]):
    """The rows of one key in all windows that contain the event's time."""

    def __init__(self, rows: WindowRows[K, V], window: Window, key: K) -> None:
        self._rows = rows
        self._window = window
        self._key = key

    def apply(self, change: Callable[[V], V]) -> "WindowSet[K, V]":
        """Replace the value of each row by the result of *change*."""
        for start_ms in self._window.starts(self._rows.now_ms()):
            self._rows.set_in_window(
                start_ms, self._key, change(self._rows.in_window(start_ms, self._key))
            )
        return self

    def current(self) -> V:
        """Return the row of the newest window that contains the event's time."""
        return self._at(self._rows.now_ms())

    def delta(self, ago: timedelta) -> V:
        """Return the row of the newest window that contains the event's time minus *ago*."""
        return self._at(self._rows.now_ms() - ago // timedelta(milliseconds=1))

    def at(self, time: datetime) -> V:
        """Return the row of the newest window that contains *time*."""
        return self._at(round(time.timestamp() * 1000))

    def _at(self, at_ms: int) -> V:
        return self._rows.in_window(self._window.starts(at_ms)[-1], self._key)

    def __iadd__(self, value: Any) -> "WindowSet[K, V]":  # Any: a summand of the rows
        return self.apply(lambda row: row + value)

    def __isub__(self, value: Any) -> "WindowSet[K, V]":
        return self.apply(lambda row: row - value)
