"""Tables: what handlers remember, one part per partition of the source.

    stock_reserved = stock.Table("stock_reserved", key=str, value=int, default=int)
    stock_reserved[event.product_id] += event.quantity

A handler sees the rows of the partition that its event came from, so a table is best keyed by the event's own key: then
every row lives in one partition. Outside a handler a table can be read (all partitions that this worker owns, settled
state only), not written.
"""

import heapq
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

import faust
import msgspec

from app.errors import DecodeError
from app.state import windows
from app.state.partition import Partition
from app.state.unit import Unit, current_unit
from app.state.windows import Window, Windowed
from app.storage.changelog import row_key
from app.wire.codec import codec_of, fault_in
from app.wire.keys import key_bytes
from app.wire.sensitive import hidden, places_of

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
Coder = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]  # Any: of the table's own types


class Table(Generic[K, V]):
    """Rows of type *value* by keys of type *key*; a missing row reads as `default()` where a default is given.

    Key and value types are Records and what JSON can carry by msgspec: numbers, str, bool, Decimal, UUID, datetime,
    lists, dicts. *held* has the partitions of this worker by their numbers. A row or an event's rows that are too large
    to be settled in one piece send the event to the dead letter topic.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # all that a table is
        self, name: str, key: type[K], value: type[V], default: Callable[[], V] | None,
        held: Mapping[int, Partition], help: str = "",  # noqa: A002
    ) -> None:  # fmt: skip
        self.name = name
        self.help = help or f"Rows by {key.__name__}."
        self.prefix = row_key(name)
        self.window: Window | None = None
        self._default = default
        self._held = held
        self._key = key
        self._encode_key, self._decode_key = _key_coder(key)
        self._encode, self._decode = _value_coder(value)
        self._hidden = places_of([value] if isinstance(value, type) and issubclass(value, faust.Record) else [])

    def __repr__(self) -> str:
        return f"<Table {self.name}>"

    def __getitem__(self, key: K) -> V:
        return self._get(self._row(key), key)

    def __setitem__(self, key: K, value: V) -> None:
        self._unit().write(self._row(key), self._encode(value))

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._unit().write(self._row(key), None)

    def __contains__(self, key: K) -> bool:
        return self._read(self._row(key)) is not None

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: D) -> V | D: ...
    def get(self, key: K, default: D | None = None) -> V | D | None:
        """The row's value, or *default* when there is no such row."""
        raw = self._read(self._row(key))
        return default if raw is None else self._decode(raw)

    def set(self, key: K, value: V) -> None:
        """The same as `table[key] = value`."""
        self[key] = value

    def pop(self, key: K, *default: V) -> V:
        """Delete the row and return its value. Raises KeyError when it is missing and no *default* is given."""
        raw = self._read(self._row(key))
        if raw is None:
            if default:
                return default[0]
            raise KeyError(key)
        self._unit().write(self._row(key), None)
        return self._decode(raw)  # type: ignore[no-any-return]

    def items(self, after: str | None = None, limit: int | None = None) -> list[tuple[K, V]]:
        """Settled rows of this worker by the text of their keys, from the first above *after*, *limit* at most.

        The keys of a table with windows are texts: the window's beginning, a slash, the key. Raises ValueError when
        *after* is no such text.
        """
        start = b"" if after is None else after.encode() if self.window is None else windows.from_text(after)
        every = heapq.merge(*(self.settled(partition, start) for partition in self.partitions))
        later = ((raw, value) for raw, value in every if after is None or raw != start)
        return [(self._to_key(raw), self._decode(value)) for raw, value in itertools.islice(later, limit)]

    def settled(self, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Settled rows of one partition as bytes, in the order of their keys, from *start* on."""
        store = self._held[partition].store
        if store is not None and store.is_open:
            for key, value in store.items(self.prefix, start):
                yield key[len(self.prefix) :], value

    def text(self, key: K | str) -> str:
        """The text of a key that `items` gave, as it stands in a URL and is passed as *after*."""
        return str(key) if self.window is not None else self._encode_key(key).decode()

    def at(self, text: str) -> V | None:
        """The settled row that the text of a key, as in a URL, stands for. Raises ValueError when it is no such key."""
        try:
            key = self._from_text(text)
        except (msgspec.DecodeError, DecodeError, ValueError) as error:
            raise ValueError(f"{text!r} is no key of table {self.name}: {error}") from None
        raw = self._read(self.prefix + key)
        return None if raw is None else self._decode(raw)

    @property
    def partitions(self) -> list[int]:
        """The partitions whose rows this worker holds, ascending."""
        return sorted(self._held)

    # Windows, by the names that Faust has for them.

    def tumbling(self, size: timedelta, *, expires: timedelta) -> "Windowed[K, V]":
        """Rows of their own for each *size* of time: `table[key]` is that of the event's time.

        They are removed when the stream's time is *expires* past their end.
        """
        return self.hopping(size, size, expires=expires)

    def hopping(self, size: timedelta, step: timedelta, *, expires: timedelta) -> "Windowed[K, V]":
        """The same with a window of *size* that begins at every *step*: an event counts in all that it lies in."""
        self.window = Window.of(size, step, expires)
        return Windowed(self, self.window)

    def in_window(self, start_ms: int, key: K) -> V:
        """The row of one window. Raises KeyError when there is none and the table has no default."""
        return self._get(self.prefix + windows.in_window(start_ms, self._encode_key(key)), key)

    def set_in_window(self, start_ms: int, key: K, value: V) -> None:
        """Set the row of one window."""
        self._unit().write(self.prefix + windows.in_window(start_ms, self._encode_key(key)), self._encode(value))

    def now_ms(self) -> int:
        """The time of the event in hand, the wall clock's outside a handler; milliseconds since 1970."""
        unit = current_unit()
        return time.time_ns() // 1_000_000 if unit is None else unit.record.timestamp

    # As the changelog has rows, and as people read them.

    def as_json(self, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        """A row of the changelog as JSON, key and value. Raises ValueError, without payload, when its types differ."""
        try:
            return msgspec.json.encode(self._to_key(key)), self._encode(self._decode(value))
        except (msgspec.MsgspecError, DecodeError, ValueError, TypeError) as error:
            raise ValueError(_fault_of(error)) from None

    def shown(self, key: bytes, value: bytes) -> bytes:
        """The value that `as_json` gives, for people: without what is sensitive. Raises as that does."""
        return hidden(self.as_json(key, value)[1], self._hidden) or b"null"

    def from_json(self, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        """The row of the changelog that such JSON stands for. Raises ValueError that says what is wrong in it."""
        try:
            return self._key_from_json(key), self._encode(self._decode(value))
        except (msgspec.MsgspecError, DecodeError, ValueError, TypeError) as error:
            raise ValueError(_fault_of(error)) from None

    def _key_from_json(self, raw: bytes) -> bytes:
        if self.window is None:
            return self._encode_key(msgspec.json.decode(raw, type=self._key))
        key = windows.from_text(msgspec.json.decode(raw, type=str))
        self._decode_key(key[windows.START_BYTES :])
        if windows.start_of(key) % self.window.step_ms:
            raise ValueError("no window of the table begins at that time")
        return key

    def event_key(self, key: bytes) -> bytes:
        """The key of the events that a row belongs to, where a table is keyed as its events are."""
        raw = key if self.window is None else key[windows.START_BYTES :]
        try:
            return key_bytes(self._decode_key(raw)) or b""
        except TypeError:  # no event has such a key
            return raw

    # By keys as they are in the changelog.

    def _row(self, key: K) -> bytes:
        return self.prefix + self._encode_key(key)

    def _get(self, row: bytes, key: K) -> V:
        raw = self._read(row)
        if raw is not None:
            return self._decode(raw)  # type: ignore[no-any-return]  # of the table's own type
        if self._default is None:
            raise KeyError(key)
        return self._default()

    def _read(self, row: bytes) -> bytes | None:
        unit = current_unit()
        if unit is not None and not unit.is_ended:
            return unit.row(row)
        stores = (p.store for p in self._held.values() if p.store is not None and p.store.is_open)
        return next((raw for store in stores if (raw := store.get(row)) is not None), None)

    def _unit(self) -> Unit:
        unit = current_unit()
        if unit is None:
            raise TypeError(f"table {self.name!r} can only be changed inside a handler")
        return unit

    def _to_key(self, raw: bytes) -> Any:  # Any: the table's key, or a text
        return self._decode_key(raw) if self.window is None else windows.text_of(raw)

    def _from_text(self, text: str) -> bytes:
        if self.window is not None:
            return windows.from_text(text)
        return self._encode_key(self._decode_key(text.encode()))


def _fault_of(error: Exception) -> str:
    """What is wrong, in names and types only: msgspec quotes some values."""
    return str(fault_in(error) if isinstance(error, msgspec.ValidationError) else error)


def _value_coder(of: Any) -> Coder:
    """How values of one type become bytes and come back."""
    if isinstance(of, type) and issubclass(of, faust.Record):
        codec = codec_of(of)
        return codec.encode, codec.decode
    return msgspec.json.encode, msgspec.json.Decoder(of).decode


def _key_coder(of: Any) -> Coder:
    """The same for keys: their text without quotes, so that they read well in a URL and in any tool."""
    if of is str:
        return str.encode, bytes.decode
    if isinstance(of, type) and issubclass(of, faust.Record):
        return _value_coder(of)
    decoder = msgspec.json.Decoder(of)

    def decode(raw: bytes) -> Any:
        try:
            return decoder.decode(raw)
        except msgspec.DecodeError:
            return decoder.decode(b'"' + raw + b'"')

    return (lambda key: msgspec.json.encode(key).strip(b'"')), decode
