"""Tables: state that handlers read and write, partitioned like the source.

    stock_reserved = stock.Table("stock_reserved", key=str, value=int, default=int)
    stock_reserved[event.product_id] += event.quantity

A handler sees the rows of the partition that its event came from. A table is therefore best keyed
by the key of its events, so that all rows of a key are in one partition. Outside a handler a table
can be read but not written. Such a read sees the settled rows of all partitions that this worker
owns.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, TypeVar, overload

import faust
import msgspec

from famulus.errors import UnreadableRowError
from famulus.serialization.key_text import key_bytes
from famulus.serialization.redaction import hidden, places_at
from famulus.state import windows
from famulus.state.changelog import row_key
from famulus.state.partition_state import PartitionState, Rows
from famulus.state.row_codec import (
    RefusedError,
    difference,
    fault_of,
    is_mutable,
    key_coder,
    name_of,
    refused,
    value_coder,
)
from famulus.state.unit_of_work import UnitOfWork, current_unit
from famulus.state.windows import Window, Windowed
from famulus.wall_clock import wall_ms

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
HEX = "hex:"  # prefix of the text of a key that is not valid, before its bytes in hexadecimal


class Row(NamedTuple):
    """A row of a table for display.

    *text* is the text of its key. *unreadable* is the reason why the row cannot be decoded, empty
    where it can.
    """

    text: str
    key: Any
    value: Any
    unreadable: str = ""


class Table(Generic[K, V]):
    """A table with rows of type *value* by keys of type *key*.

    A missing row reads as `default()` where a default is given. *held* has the partitions of this
    worker by number. *topic* is the source whose handlers may change the table.

    Keys and values are Records, or any type that msgspec encodes as JSON: numbers, str, bool,
    Decimal, UUID, datetime, lists, dicts. Writing a key or a value that could not be decoded again
    raises TypeError or ValueError, which sends the event to the dead letter topic. An event whose
    rows are too large for one record batch goes there, too.

    Reading a row that cannot be decoded raises UnreadableRowError, which stops the partition,
    because the event is not the cause.
    """

    def __init__(
        self,
        name: str,
        key: type[K],
        value: type[V],
        *,
        default: Callable[[], V] | None,
        held: Mapping[int, PartitionState],
        help: str = "",
        topic: str = "",
    ) -> None:
        self.name = name
        self.help = help or f"Rows by {name_of(key)}."
        self.prefix = row_key(name)
        self.window: Window | None = None
        self._default = default
        self._held = held
        self.topic = topic  # the source's name on the cluster
        self._key = key
        self._keys, self._values = key_coder(key), value_coder(value)
        self._encode_key, self._plain_key = self._keys.encode, self._keys.plain
        self._encode, self._plain, self._decode = (
            self._values.encode,
            self._values.plain,
            self._values.decode,
        )
        self._is_mutable = is_mutable(value)
        self._hidden = places_at(value)

    def __repr__(self) -> str:
        return f"<Table {self.name}>"

    def check(self, value: V) -> None:
        """Raise the error that writing *value* would raise if it could not be decoded again."""
        self._values.checked(value)

    def __getitem__(self, key: K) -> V:
        row = self._row(key)
        raw = self._read(row)
        if raw is None:
            return self._missing(row, key)
        if self._is_mutable:
            return self._value(row, raw)
        try:  # inlined `_value`, which saves a call
            return self._decode(raw)  # type: ignore[no-any-return]  # of the table's own type
        except Exception as error:  # decoding runs the code of users' types
            raise self._unreadable(row, error) from None

    def __setitem__(self, key: K, value: V) -> None:
        self._write(self._row(key), value)

    def _write(self, row: bytes, value: V) -> None:
        try:
            raw = self._encode(value) if type(value) is self._plain else self._values.checked(value)
        except Exception as error:  # encoding runs the code of users' types
            raise self._refused("value", self._values.name, error) from None
        unit = current_unit()  # inlined `_unit`, which saves a call
        if unit is None or unit.partition.topic != self.topic:
            unit = self._unit()
        unit.write(row, raw)

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
        """Return the value of the row, *default* when there is no such row."""
        row = self._row(key)
        raw = self._read(row)
        if raw is not None:
            return self._value(row, raw)
        if self._is_mutable and default is not None:
            self._check_later(row, default)
        return default

    def set(self, key: K, value: V) -> None:
        """Set the row, as `table[key] = value` does."""
        self[key] = value

    def pop(self, key: K, *default: V) -> V:
        """Delete the row and return its value.

        A missing row gives *default*. Raises KeyError when no default is given either.
        """
        row = self._row(key)
        raw = self._read(row)
        if raw is None:
            if default:
                return default[0]
            raise KeyError(key)
        value = self._decoded(row, raw)
        self._unit().write(row, None)
        return value

    def items(self, after: str | None = None, limit: int | None = None) -> list[tuple[K, V]]:
        """Return settled rows of this worker, ordered by key.

        *after* is the text of the key to start behind, *limit* the maximum number of rows. Keys of
        a table with windows are texts: the start of the window, a slash, the key.

        Raises ValueError when *after* is not the text of a key, and UnreadableRowError for a row
        that cannot be decoded.
        """
        found = []
        for raw, value in self._later(None if after is None else self.position(after), limit):
            try:
                key = self._to_key(raw)
            except Exception as error:  # decoding runs the code of users' types
                raise self._unreadable(self.prefix + raw, error) from None
            found.append((key, self._decoded(self.prefix + raw, value)))
        return found

    def page(self, after: bytes | None, limit: int) -> list[Row]:
        """Return settled rows in key order, including rows that cannot be decoded.

        *after* is the key to start behind, as bytes from `position`.
        """
        return [self._shown_row(raw, value) for raw, value in self._later(after, limit)]

    def _later(self, after: bytes | None, limit: int | None) -> Iterator[tuple[bytes, bytes]]:
        every = heapq.merge(
            *(self.settled(partition, after or b"") for partition in self.partitions)
        )
        return itertools.islice(((raw, value) for raw, value in every if raw != after), limit)

    def _shown_row(self, raw: bytes, value: bytes) -> Row:
        text, why = self.key_text(raw), self.fault(raw, value)
        return (
            Row(text, text, None, why) if why else Row(text, self._to_key(raw), self._decode(value))
        )

    def settled(self, partition: int, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield settled rows of one partition as bytes, in key order, from *start* on."""
        store = self._held[partition].store
        if store is not None and store.is_open:
            for key, value in store.items(self.prefix, start):
                yield key[len(self.prefix) :], value

    def text(self, key: K | str) -> str:
        """Return the text of a key from `items`, as used in URLs and as *after*."""
        return str(key) if self.window is not None else self._encode_key(key).decode()

    def key_text(self, raw: bytes) -> str:
        """Return the text of any row's key, for people and as *after*.

        Bytes that are not a valid key are written in hexadecimal.
        """
        try:
            text = windows.text_of(raw) if self.window is not None else raw.decode()
            if self.position(text) == raw:
                return text
        except (ValueError, OverflowError):
            pass
        return HEX + raw.hex()

    def position(self, after: str) -> bytes:
        """Return the bytes of a key from its text.

        Raises ValueError when the text is not valid.
        """
        raw = _from_hex(after)
        if raw is not None:
            return raw
        return after.encode() if self.window is None else windows.from_text(after)

    def at(self, text: str) -> V | None:
        """Return the settled value of the row whose key has this *text*.

        The result is None when there is no such row. Raises ValueError when *text* is not the text
        of a key, and UnreadableRowError when the row cannot be decoded.
        """
        try:
            key = self._from_text(text)
        except Exception as error:  # decoding runs the code of users' types
            why = str(error) if isinstance(error, ValueError) else fault_of(error)[1]
            raise ValueError(f"{text!r} is no key of table {self.name}: {why}") from None
        row = self.prefix + key
        raw = self._read(row)
        return None if raw is None else self._decoded(row, raw)

    @property
    def partitions(self) -> list[int]:
        """Return the partitions whose rows this worker holds, ascending."""
        return sorted(self._held)

    # Windows, with the names that Faust uses.

    def tumbling(self, size: timedelta, *, expires: timedelta) -> "Windowed[K, V]":
        """Keep separate rows for each *size* of time; `table[key]` is the row of the event's time.

        Rows are removed when stream time is *expires* past the end of their window.
        """
        return self.hopping(size, size, expires=expires)

    def hopping(self, size: timedelta, step: timedelta, *, expires: timedelta) -> "Windowed[K, V]":
        """Keep separate rows for windows of *size* that start at every *step*.

        An event counts in all windows that contain its time. Rows are removed when stream time is
        *expires* past the end of their window.
        """
        self.window = Window.of(size, step, expires)
        return Windowed(self, self.window)

    def in_window(self, start_ms: int, key: K) -> V:
        """Return the value of the row in one window.

        Raises KeyError when there is none and the table has no default.
        """
        row = self._window_row(start_ms, key)
        raw = self._read(row)
        return self._missing(row, key) if raw is None else self._value(row, raw)

    def set_in_window(self, start_ms: int, key: K, value: V) -> None:
        """Set the row in one window."""
        self._write(self._window_row(start_ms, key), value)

    def now_ms(self) -> int:
        """Return the time of the event being handled, in milliseconds since 1970.

        The result is the wall clock outside a handler, and for an event after the year 9999, since
        stream time is never ahead of the wall clock. The result is 0 for an event before 1970.
        """
        unit = current_unit()
        if unit is None or unit.record.timestamp > windows.TIME_MAX_MS:
            return wall_ms()
        return max(unit.record.timestamp, 0)

    # Rows as bytes of the changelog, and as JSON for people.

    def fault(self, key: bytes, value: bytes) -> str:
        """Return why a row of the changelog cannot be decoded, without payload.

        The result is empty when the row can be decoded.
        """
        try:
            self._to_key(key)
        except Exception as error:  # decoding runs the code of users' types
            return f"its key, {_words(error)}"
        try:
            self._decode(value)
        except Exception as error:  # as above
            return _words(error)
        return ""

    def as_json(self, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Return key and value of a changelog row as JSON.

        Raises ValueError, without payload, when they do not have the table's types.
        """
        if why := self.fault(key, value):
            raise ValueError(why)
        return self.key_json(key), self._encode(self._decode(value))

    def key_json(self, raw: bytes) -> bytes:
        """Return the key of a row as JSON.

        Raises the decoder's error when the key is not valid.
        """
        key = self._to_key(raw)
        return self._encode_key(key) if isinstance(key, faust.Record) else msgspec.json.encode(key)

    def shown(self, key: bytes, value: bytes) -> bytes:
        """Return the value of a row as JSON for people, with sensitive fields redacted.

        Raises as `as_json` does.
        """
        return hidden(self.as_json(key, value)[1], self._hidden) or b"null"

    def from_json(self, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        """Return key and value of a changelog row from JSON as `as_json` gives it.

        Raises ValueError with the fault.
        """
        raw = self.key_from_json(key)
        try:
            return raw, self._values.checked(self._decode(value))
        except Exception as error:  # decoding runs the code of users' types
            raise ValueError(_words(error)) from None

    def key_from_json(self, raw: bytes) -> bytes:
        """Return the key of a row from JSON. Raises as `from_json` does."""
        try:
            return self._key_from_json(raw)
        except Exception as error:  # as above
            raise ValueError(_words(error)) from None

    def _key_from_json(self, raw: bytes) -> bytes:
        if self.window is None:
            if isinstance(self._key, type) and issubclass(self._key, faust.Record):
                return self._keys.canonical(self._keys.decode(raw))
            return self._keys.canonical(msgspec.json.decode(raw, type=self._key))
        key = windows.from_text(msgspec.json.decode(raw, type=str))
        self._keys.decode(key[windows.START_BYTES :])
        if windows.start_of(key) % self.window.step_ms:
            raise windows.NoWindowError("no window of the table begins at that time")
        return key

    def event_key(self, key: bytes) -> bytes:
        """Return the key of the events that a row belongs to.

        This holds only for a table that is keyed like its events.
        """
        raw = key if self.window is None else key[windows.START_BYTES :]
        try:
            return key_bytes(self._keys.decode(raw)) or b""
        except TypeError:  # not a type that an event's key can have
            return raw

    # Access to rows by their keys in the changelog.

    def _row(self, key: K) -> bytes:
        try:
            return self.prefix + (
                self._encode_key(key) if type(key) is self._plain_key else self._keys.canonical(key)
            )
        except Exception as error:  # encoding runs the code of users' types
            raise self._refused("key", self._keys.name, error) from None

    def _window_row(self, start_ms: int, key: K) -> bytes:
        return self.prefix + windows.in_window(start_ms, self._row(key)[len(self.prefix) :])

    def _missing(self, row: bytes, key: K) -> V:
        """Return the default for a missing row. Raises KeyError when there is none."""
        if self._default is None:
            raise KeyError(key)
        value = self._default()
        if self._is_mutable:
            self._check_later(row, value)
        return value

    def _value(self, row: bytes, raw: bytes) -> V:
        """Decode the value of a row inside a handler.

        A mutable value is checked for changes in place when the event ends.
        """
        value = self._decoded(row, raw)
        if self._is_mutable:
            self._check_later(row, value, raw)
        return value

    def _decoded(self, row: bytes, raw: bytes) -> V:
        try:
            return self._decode(raw)  # type: ignore[no-any-return]  # of the table's own type
        except Exception as error:  # decoding runs the code of users' types
            raise self._unreadable(row, error) from None

    def _read(self, row: bytes) -> bytes | None:
        unit = current_unit()
        if unit is not None and not unit.is_ended:
            if unit.partition.topic != self.topic:
                self._check_home(unit)
            return unit.row(row)
        stores = (p.store for p in self._held.values() if p.store is not None and p.store.is_open)
        return next((raw for store in stores if (raw := store.get(row)) is not None), None)

    def _unit(self) -> UnitOfWork:
        unit = current_unit()
        if unit is None:
            raise TypeError(f"table {self.name!r} can only be changed inside a handler")
        self._check_home(unit)
        return unit

    # A value that was read and changed in place would be lost, so it is checked.

    # *value* is Any, since it may be a default of another type.
    def _check_later(self, row: bytes, value: Any, raw: bytes | None = None) -> None:
        unit = current_unit()
        if unit is None or unit.is_ended:
            return
        try:
            before = raw if raw is not None else self._encode(value)
        except Exception:  # a default that is not of the table's value type
            return
        unit.check_later(partial(self._check_unchanged, row, value, before, is_row=raw is not None))

    def _check_unchanged(
        self, row: bytes, value: Any, before: bytes, rows: Rows, *, is_row: bool
    ) -> None:
        """Raise TypeError when *value* was changed in place and not written back.

        *before* are the bytes of the value when it was read.
        """
        if row in rows and not (is_row and rows[row] is before):
            return
        try:
            if self._encode(value) == before:
                return
            # Different bytes may decode to equal values.
            is_same = is_row and difference(value, self._decode(before)) is None
        except Exception:  # the changed value cannot be encoded
            is_same = False
        if not is_same:
            raise TypeError(
                f"a value of table {self.name!r} was changed in place and not written back, so "
                "the change would be "
                "lost: assign it (`table[key] = value`), or change a copy"
            )

    # Errors, with messages without payload.

    def _refused(self, what: str, kind: str, error: Exception) -> Exception:
        fault = error if isinstance(error, RefusedError) else refused(error)
        made = TypeError if fault.is_type else ValueError
        return made(
            f"table {self.name!r} takes no such {what}, its {what}s are of type {kind}: {fault}"
        )

    def _unreadable(self, row: bytes, error: Exception) -> UnreadableRowError:
        digest = blake2b(row[len(self.prefix) :], digest_size=8).hexdigest()
        return UnreadableRowError(
            f"table {self.name!r}: the row whose key has the digest {digest} cannot be read "
            f"({_words(error)}). Older "
            "code wrote it, or it is damaged: give fields that are new a default; or stop the "
            "workers, `faust -A app "
            f"state export --topic {self.topic} --output FILE`, correct or remove the lines "
            "that say `unreadable`, "
            f"`state import --topic {self.topic} --replace FILE`"
        )

    def _check_home(self, unit: UnitOfWork) -> None:
        """Raise TypeError when the event and the table belong to different subscriptions.

        Nothing is checked where one of them is unknown.
        """
        here, there = self.topic, unit.partition.topic
        if here != there and here and there:
            raise TypeError(
                f"table {self.name!r} belongs to the subscription of {here!r}, and this event "
                f"is of {there!r}: publish "
                f"an event to {here!r} whose handler does it, or declare the table at the "
                f"subscription of {there!r}"
            )

    def _to_key(self, raw: bytes) -> Any:  # Any: the table's key, or a text
        if self.window is None:
            return self._keys.decode(raw)
        self._keys.decode(raw[windows.START_BYTES :])
        return windows.text_of(raw)

    def _from_text(self, text: str) -> bytes:
        if self.window is not None or _from_hex(text) is not None:
            return self.position(text)
        return self._keys.canonical(self._keys.decode(text.encode()))


def _from_hex(text: str) -> bytes | None:
    """Return the bytes that a text in hexadecimal stands for, None for any other text."""
    try:
        return bytes.fromhex(text[len(HEX) :]) if text.startswith(HEX) else None
    except ValueError:
        return None


def _words(error: Exception) -> str:
    """Return the place of an error and its reason, in names and types only."""
    if isinstance(error, (RefusedError, windows.NoWindowError)):
        return str(error)
    path, reason = fault_of(error)
    return f"{path}: {reason}"
