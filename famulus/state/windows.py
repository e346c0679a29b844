"""Windows: rows of their own for each span of time, by the time of the event in hand.

    per_hour = orders.Table("per_hour", key=str, value=int, default=int).tumbling(
        timedelta(hours=1), expires=timedelta(days=2))
    per_hour[event.customer_id] += 1
    per_hour[event.customer_id].delta(timedelta(hours=1))       # the hour before

An event's time is its record's timestamp, so an event that is handled again counts in the same
window. Windows begin at multiples of the step since 1970. A time that no calendar has, such as one
in microseconds, is taken for the worker's, one before 1970 for its beginning: rows of such windows
would never be removed, and they would sort before all others.
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
# Above: no time at all, but the text of a key in a table that had no windows once.
STRAY_MAX_MS = 0x20 << 56
_number = re.compile(r"(-?\d{1,19}) ms")  # stands for a time that no calendar has


class NoWindowError(ValueError):
    """A key, or its text, has no window's beginning."""


@dataclass(frozen=True, slots=True)
class Window:
    """How long a window is, how far apart two begin, and how long after its end its rows are kept; milliseconds."""

    size_ms: int
    step_ms: int
    expires_ms: int

    @classmethod
    def of(cls, size: timedelta, step: timedelta, expires: timedelta) -> "Window":
        """Make one of lengths.

        Raises ConfigError when time would pass that no window has, or one is not positive.
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
        """When the windows begin that *at_ms* lies in, the oldest first; none before 1970 for a time after it."""
        newest = at_ms - at_ms % self.step_ms
        oldest = newest - (self.size_ms - 1 - at_ms % self.step_ms) // self.step_ms * self.step_ms
        return range(max(oldest, 0) if at_ms >= 0 else oldest, newest + 1, self.step_ms)

    def is_stray(self, start_ms: int) -> bool:
        """Whether a window begins then that no event reaches: earlier versions wrote rows of such ones."""
        is_outside = -(1 << 56) < start_ms < 0 or TIME_MAX_MS < start_ms < STRAY_MAX_MS
        return is_outside and not start_ms % self.step_ms

    def expired_before(self, stream_ms: int) -> int:
        """Windows that begin before this are kept no more at the stream's time *stream_ms*."""
        return stream_ms - self.size_ms - self.expires_ms + 1


def in_window(start_ms: int, key: bytes) -> bytes:
    """The key of a row of the window that begins at *start_ms*, as bytes that sort by time."""
    return _start.pack(start_ms) + key


def start_of(raw: bytes) -> int:
    """When the window of such a key begins, milliseconds since 1970.

    Raises NoWindowError when it is none.
    """
    if len(raw) < START_BYTES:
        raise NoWindowError("the key has no window's beginning")
    return int(_start.unpack_from(raw)[0])


def text_of(raw: bytes) -> str:
    """Such a key for people: the window's beginning, a slash, the key. Raises as `start_of` does.

    A beginning that no calendar has is a number.
    """
    start_ms, key = start_of(raw), raw[START_BYTES:].decode("utf-8", "backslashreplace")
    try:
        return f"{datetime.fromtimestamp(start_ms / 1000, UTC).isoformat()}/{key}"
    except (ValueError, OverflowError, OSError):
        return f"{start_ms} ms/{key}"


def from_text(text: str) -> bytes:
    """The bytes that such a text stands for; without a zone its time is UTC.

    Raises NoWindowError when it is none.
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
    """What windows need of a table."""

    def in_window(self, start_ms: int, key: K_contra) -> V:
        """The row of one window.

        Raises KeyError when there is none and the table has no default.
        """

    def set_in_window(self, start_ms: int, key: K_contra, value: V) -> None:
        """Set the row of one window."""

    def now_ms(self) -> int:
        """The time of the event in hand, the wall clock's outside a handler; milliseconds since 1970."""


class Windowed(Generic[K, V]):
    """A table by windows: `table[key]` are the rows of *key* in all windows that the event's time lies in."""

    def __init__(self, rows: WindowRows[K, V], window: Window) -> None:
        self._rows = rows
        self.window = window

    def __getitem__(self, key: K) -> "WindowSet[K, V]":
        return WindowSet(self._rows, self.window, key)

    def __setitem__(self, key: K, value: "V | WindowSet[K, V]") -> None:
        if not isinstance(value, WindowSet):  # else it is the outcome of `+=` and written by now
            self[key].apply(lambda _: value)


class WindowSet(Generic[K, V]):
    """The rows of one key in all windows that the event's time lies in."""

    def __init__(self, rows: WindowRows[K, V], window: Window, key: K) -> None:
        self._rows = rows
        self._window = window
        self._key = key

    def apply(self, change: Callable[[V], V]) -> "WindowSet[K, V]":
        """Replace each row by what *change* makes of it."""
        for start_ms in self._window.starts(self._rows.now_ms()):
            self._rows.set_in_window(
                start_ms, self._key, change(self._rows.in_window(start_ms, self._key))
            )
        return self

    def current(self) -> V:
        """The row of the window that began last."""
        return self._at(self._rows.now_ms())

    def delta(self, ago: timedelta) -> V:
        """The row of the window that had begun last so long *ago*."""
        return self._at(self._rows.now_ms() - ago // timedelta(milliseconds=1))

    def at(self, time: datetime) -> V:
        """The row of the window that had begun last at *time*."""
        return self._at(round(time.timestamp() * 1000))

    def _at(self, at_ms: int) -> V:
        return self._rows.in_window(self._window.starts(at_ms)[-1], self._key)

    def __iadd__(self, value: Any) -> "WindowSet[K, V]":  # Any: whatever the rows can be added to
        return self.apply(lambda row: row + value)

    def __isub__(self, value: Any) -> "WindowSet[K, V]":
        return self.apply(lambda row: row - value)
