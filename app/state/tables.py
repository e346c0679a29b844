"""Tables: what handlers remember, kept in RocksDB and in a changelog topic, one part per partition of the source.

    stock_reserved = stock.Table("stock_reserved", key=str, value=int, default=int)
    stock_reserved[event.product_id] += event.quantity

A handler sees the rows of the partition that its event came from, so a table is best keyed by the event's own key: then
every row lives in one partition. Outside a handler a table can be read (all partitions that this worker owns, settled
state only), not written.
"""

import heapq
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, overload

import faust
import msgspec
from rocksdict import WriteBatch

from app.state.group import Rows
from app.state.unit import Unit, current_unit

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
OWN_ROWS = b"__faust\x00"  # Faust keeps its changelog position under this prefix in the same store


class Table(Generic[K, V]):
    """Rows of type *value* by keys of type *key*; a missing row reads as `default()` where a default is given.

    Key and value types are what JSON can carry by msgspec: numbers, str, bool, Decimal, UUID, datetime, lists, dicts.
    """

    def __init__(
        self, storage: "faust.Table[Any, Any]", key: type[K], value: type[V], default: Callable[[], V] | None
    ) -> None:
        self.name = str(storage.name)
        self.storage = storage
        self._default = default
        self._encode_key, self._decode_key = _key_coder(key)
        self._encode, self._decode = _value_coder(value)

    def __repr__(self) -> str:
        return f"<Table {self.name}>"

    def __getitem__(self, key: K) -> V:
        raw = self._read(self._encode_key(key))
        if raw is not None:
            return self._decode(raw)
        if self._default is None:
            raise KeyError(key)
        return self._default()

    def __setitem__(self, key: K, value: V) -> None:
        self._unit().write(self.name, self._encode_key(key), self._encode(value))

    def __delitem__(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._unit().write(self.name, self._encode_key(key), None)

    def __contains__(self, key: K) -> bool:
        return self._read(self._encode_key(key)) is not None

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: D) -> V | D: ...
    def get(self, key: K, default: D | None = None) -> V | D | None:
        """The row's value, or *default* when there is no such row."""
        raw = self._read(self._encode_key(key))
        return default if raw is None else self._decode(raw)

    def pop(self, key: K, *default: V) -> V:
        """Delete the row and return its value. Raises KeyError when it is missing and no *default* is given."""
        raw = self._read(self._encode_key(key))
        if raw is None:
            if default:
                return default[0]
            raise KeyError(key)
        self._unit().write(self.name, self._encode_key(key), None)
        return self._decode(raw)

    def items(self, after: str | None = None, limit: int | None = None) -> list[tuple[K, V]]:
        """Settled rows of this worker by the text of their keys, from the first above *after*, *limit* at most."""
        start = after.encode() if after is not None else b""
        rows: list[tuple[K, V]] = []
        for raw, value in heapq.merge(*(self._settled(partition, start) for partition in self.partitions)):
            if limit is not None and len(rows) >= limit:
                break
            if after is None or raw != start:
                rows.append((self._decode_key(raw), self._decode(value)))
        return rows

    def key_from_text(self, text: str) -> K:
        """The key that a text (as in a URL) stands for. Raises ValueError when it is none of this table's type."""
        try:
            return self._decode_key(text.encode())
        except (msgspec.DecodeError, UnicodeError) as error:
            raise ValueError(f"{text!r} is no key of table {self.name}: {error}") from None

    @property
    def partitions(self) -> list[int]:
        """The partitions whose rows this worker holds, ascending."""
        return sorted(self.storage.data._dbs)  # type: ignore[attr-defined]  # the RocksDB store, see bootstrap

    # What settlement and dedupe need: rows as bytes, by partition.

    def stored(self, partition: int, key: bytes) -> bytes | None:
        """A settled row of one partition."""
        value: bytes | None = self._db(partition).get(key)
        return value

    def stored_many(self, partition: int, keys: list[bytes]) -> list[bytes | None]:
        """Settled rows of one partition in one look, in the order of *keys*."""
        values: list[bytes | None] = self._db(partition).get(keys)
        return values

    def apply(self, partition: int, rows: Rows, changelog_offset: int) -> None:
        """Write *rows*, which the changelog holds up to *changelog_offset*, in one piece."""
        batch = WriteBatch(raw_mode=True)
        for key, value in rows.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        store: Any = self.storage.data
        batch.put(store.offset_key, str(changelog_offset).encode())
        self._db(partition).write(batch)

    def _settled(self, partition: int, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._db(partition).items(from_key=start):
            if not key.startswith(OWN_ROWS):
                yield key, value

    def _read(self, key: bytes) -> bytes | None:
        unit = current_unit()
        if unit is not None:
            return unit.row(self.name, key, self.stored)
        return next((raw for p in self.partitions if (raw := self.stored(p, key)) is not None), None)

    def _unit(self) -> Unit:
        unit = current_unit()
        if unit is None:
            raise TypeError(f"table {self.name!r} can only be changed inside a handler")
        return unit

    def _db(self, partition: int) -> Any:  # Any: rocksdict is untyped
        return self.storage.data._db_for_partition(partition)  # type: ignore[attr-defined]


def _value_coder(of: type[V]) -> tuple[Callable[[V], bytes], Callable[[bytes], V]]:
    """How values of one type become bytes and come back."""
    return msgspec.json.encode, msgspec.json.Decoder(of).decode


def _key_coder(of: type[K]) -> tuple[Callable[[K], bytes], Callable[[bytes], K]]:
    """The same for keys: their text without quotes, so that they read well in a URL and in any tool."""
    if of is str:
        return (lambda key: key.encode()), (lambda raw: raw.decode())
    decoder = msgspec.json.Decoder(of)

    def decode(raw: bytes) -> K:
        try:
            return decoder.decode(raw)
        except msgspec.DecodeError:
            return decoder.decode(b'"' + raw + b'"')

    return (lambda key: msgspec.json.encode(key).strip(b'"')), decode
