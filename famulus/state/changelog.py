r"""The state changelog of a subscription: what its records look like.

Pure: no Kafka, no store, no clock.

One topic holds everything that a subscription remembers, one partition for each partition of its
source:

    t TABLE \0 KEY           a row of a table
    p PERIOD EPOCH NUMBER    a pack: the marks of the events that were settled together
    a OFFSET                 how often the event at an offset of the source was tried, while it is not done with
    d OFFSET                 a dead letter that later events of its key wait behind
    \0processed              how far the source is settled
    \0claim                  who owns the partition from here on
    \0reset                  everything before this counts no more
    \0whole OFFSET           the state was written back: from that offset on the log says all of it

Every record carries the epoch of the owner that wrote it in a header. Whoever reads the log in
order ignores records of an older epoch than one seen before: a worker that was frozen and writes
what it had in hand changes nothing.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

import msgspec

from famulus.serialization.stray_records import INT32_MAX, INT64_MAX, number_in, reason_of
from famulus.state.identity import ChangelogPartition

ROW, PACK = b"t", b"p"
ATTEMPTS, DEAD = b"a", b"d"
MARK = b"m"  # of one event, by the digest of its id; in the store only, made from packs
PROCESSED, CLAIM, RESET, WHOLE = b"\0processed", b"\0claim", b"\0reset", b"\0whole"
UNFINISHED = b"-1"  # the value of WHOLE while it is being written back
EPOCH = "epoch"  # the name of the header
EPOCH_MAX = 2**40  # each claim adds one: what says more was written by nobody of us
# Bytes of a record beside key and value, at most: lengths, deltas, the epoch's header.
RECORD_OVERHEAD = 64
BATCH_BYTES = 900_000  # of one record batch: brokers take 1 MiB

_epoch = struct.Struct(">q")
_mark = struct.Struct(">17s16s")
MARK_BYTES = _mark.size  # of one mark in a pack
_seen = struct.Struct(">qq")
_pack_key = struct.Struct(">cqqq")
_offset_key = struct.Struct(">cq")
PACK_KEY_BYTES = _pack_key.size


Row = tuple[bytes, bytes | None]  # a record to be: its key, and its value, None: that it is deleted


class Logged(Protocol):
    """A record of the changelog as it was read; aiokafka's ConsumerRecord has this shape."""

    @property
    def offset(self) -> int:
        """Where it stands in the log."""

    @property
    def key(self) -> bytes:
        """Which row, pack or control record it is."""

    @property
    def value(self) -> bytes | None:
        """What it says, None: that it is deleted."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The epoch of its writer, before any other."""


class SeenMark(NamedTuple):
    """When an event was seen, as the stream's time (milliseconds since 1970), and at which offset of the source."""

    seen_ms: int
    offset: int


class OwnershipClaim(msgspec.Struct, frozen=True):
    """*owner*, a random id, owns the partition from *epoch* on; *worker* says for people which process that is."""

    epoch: int
    owner: str
    worker: str = ""
    at_ms: int = 0


class SourcePosition(msgspec.Struct, frozen=True):
    """How far a partition of the source is settled.

    Everything below *next_offset* is, and so are the offsets of *ahead*, which are written as turns
    of how many are not and how many are. *stream_ms* is the newest time of the records below
    *next_offset*, *at_ms* when this was written, *counts* how the records ended since the state
    began. *seek* is the newest order of an operator to go on elsewhere that was carried out. *home*
    is where this was written, *source_id* the id of the topic that the offsets are of; None and "":
    by a version that did not know. *leader_epoch* (KIP-320) is that of the newest records that were
    read by then: of those below *next_offset*, or a later one; -1: not known.
    """

    next_offset: int
    ahead: tuple[int, ...] = ()
    stream_ms: int = 0
    at_ms: int = 0
    counts: dict[str, int] = {}
    seek: str = ""
    home: ChangelogPartition | None = None
    source_id: str = ""
    leader_epoch: int = -1


encode = msgspec.json.encode
decode_claim = msgspec.json.Decoder(OwnershipClaim).decode
_processed = msgspec.json.Decoder(SourcePosition)
_attempts = msgspec.json.Decoder(dict[str, tuple[int, int, int]])  # what `state.troubles` keeps


def decode_processed(value: bytes) -> SourcePosition:
    """Read a processed row. Raises ValueError, or what msgspec raises, for what is none."""
    processed = _processed.decode(value)
    numbers = (processed.next_offset, *processed.ahead, *processed.counts.values())
    if (
        len(processed.ahead) % 2
        or min(numbers) < 0
        or max(*numbers, abs(processed.stream_ms)) > INT64_MAX
    ):
        raise ValueError("its numbers are no offsets")
    if not -1 <= processed.leader_epoch <= INT32_MAX:
        raise ValueError("no leader has that epoch")
    return processed


def whole_since(value: bytes) -> int:
    """From which offset on a log says all of the state, -1 while it is written back.

    Raises ValueError.
    """
    return number_in(value, least=-1)


def size_of(key: bytes, value: bytes | None) -> int:
    """Return the bytes of a record in a batch, rather more than less."""
    return len(key) + len(value or b"") + RECORD_OVERHEAD


def batches(records: Iterable[Row], bytes_max: int) -> Iterator[list[Row]]:
    """Share *records* out to batches of at most *bytes_max* bytes, in their order; a larger record has its own."""
    batch: list[Row] = []
    size = 0
    for record in records:
        if batch and size + size_of(*record) > bytes_max:
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += size_of(*record)
    if batch:
        yield batch


def row_key(table: str, key: bytes = b"") -> bytes:
    """The key of a row, and with no *key* what every row of a table begins with."""
    return ROW + table.encode() + b"\0" + key


def table_and_key(row: bytes) -> tuple[str, bytes]:
    """The table and the key of a row."""
    table, _, key = row[len(ROW) :].partition(b"\0")
    return table.decode("utf-8", "backslashreplace"), key


def epoch_headers(epoch: int) -> list[tuple[str, bytes]]:
    """The headers of every record that the owner with *epoch* writes."""
    return [(EPOCH, epoch_bytes(epoch))]


epoch_bytes = _epoch.pack  # the value of that header


def epoch_of(headers: Iterable[tuple[str, bytes]]) -> int:
    """The epoch of a record's writer; 0, which nobody has, when it says none, or one that no claim ever had."""
    for name, value in headers:
        if name == EPOCH:
            epoch = (
                int(_epoch.unpack(value)[0])
                if value is not None and len(value) == _epoch.size
                else 0
            )
            return epoch if 0 < epoch <= EPOCH_MAX else 0
    return 0


def fault_in(key: bytes | None, value: bytes | None, epoch: int) -> str:
    """Say why a record whose writer says that it has *epoch* is none of an owner's; empty when it may be one."""
    if not key:
        return "it has no key"
    if epoch <= 0:
        return "its header does not say whose it is"
    try:
        return _fault_in(key, value, epoch)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever its decoder raises
        return reason_of(error)


def _fault_in(key: bytes, value: bytes | None, epoch: int) -> str:
    kind, other_length = key[:1], "a key of another length"
    if kind == ROW:
        return "" if b"\0" in key else "a row without a table"
    if kind in {ATTEMPTS, DEAD}:
        is_right = kind == DEAD or value is None or _are_attempts(value)
        return (
            other_length
            if len(key) != _offset_key.size
            else ""
            if is_right
            else "numbers out of range"
        )
    if kind == PACK:
        return (
            other_length
            if len(key) != PACK_KEY_BYTES
            else ""
            if value is None or is_pack(value)
            else "no marks"
        )
    if key == PROCESSED and value is not None:
        decode_processed(value)
    elif key == CLAIM and value is not None and decode_claim(value).epoch != epoch:
        return "a claim to another epoch than its header says"
    elif key == WHOLE and value is not None:
        whole_since(value)
    return "" if key in {PROCESSED, CLAIM, RESET, WHOLE} else "a key of no kind that there is"


def _are_attempts(value: bytes) -> bool:
    return all(
        0 <= number <= INT64_MAX for tried in _attempts.decode(value).values() for number in tried
    )


def offset_key(kind: bytes, offset: int) -> bytes:
    """The key of a row about the event at an offset of the source."""
    return _offset_key.pack(kind, offset)


def offset_of(key: bytes) -> int:
    """The offset that such a row is about."""
    return int(_offset_key.unpack(key)[1])


def pack_key(period_ms: int, epoch: int, number: int) -> bytes:
    """The key of the *number*-th pack that the owner with *epoch* writes; *period_ms* is when its period begins."""
    return _pack_key.pack(PACK, period_ms, epoch, number)


def period_of(pack: bytes) -> int:
    """When the period of a pack begins, by its key; milliseconds since 1970."""
    return int(_pack_key.unpack(pack)[1])


def pack(marks: Mapping[bytes, bytes]) -> bytes:
    """The value of a pack of *marks*: as the store keeps them, keys and values."""
    return b"".join(chain.from_iterable(marks.items()))


def unpack(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The marks of a pack, as the store keeps them: their keys and values."""
    return _mark.iter_unpack(value)


def is_pack(value: bytes) -> bool:
    """Whether *value* is that of a pack: marks, and nothing else."""
    count, rest = divmod(len(value), MARK_BYTES)
    return not rest and value[::MARK_BYTES].count(MARK) == count


def newest_ms(marks: Mapping[bytes, bytes]) -> int:
    """The time of the newest of *marks*, as the store keeps them."""
    return stored_mark(max(marks.values())).seen_ms  # their bytes sort by time


# What a `Mark` is made of, as the store keeps it under MARK and the digest.
store_mark: Callable[[int, int], bytes] = _seen.pack


def stored_mark(value: bytes) -> SeenMark:
    """A mark as it was read from the store."""
    return SeenMark(*_seen.unpack(value))


def turns(next_offset: int, ahead: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """The runs *ahead* of *next_offset*, each its start and end, as turns of how many are missing and are there."""
    found: list[int] = []
    at = next_offset
    for start, end in ahead:
        if found and start == at:
            found[-1] += end - start
        else:
            found += [start - at, end - start]
        at = end
    return tuple(found)


def offsets_in(processed: SourcePosition) -> list[tuple[int, int]]:
    """The offsets ahead that are settled, as runs: start and end."""
    at = processed.next_offset
    found: list[tuple[int, int]] = []
    for missing, there in zip(processed.ahead[::2], processed.ahead[1::2], strict=True):
        found.append((at + missing, at + missing + there))
        at += missing + there
    return found
