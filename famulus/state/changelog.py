r"""Record format of the state changelog of a subscription.

This module is pure: no Kafka, no store, no clock.

One topic holds all state of a subscription, with one partition for each partition of the source.
Its keys are:

    t TABLE \0 KEY           a row of a table
    p PERIOD EPOCH NUMBER    a pack: the seen marks of the events of one checkpoint
    a OFFSET                 the attempts at the event at a source offset, until it is completed
    d OFFSET                 a dead letter that later events of its key wait behind
    \0processed              the source position: how far the source is settled
    \0claim                  the ownership claim: who owns the partition from here on
    \0reset                  everything before this record is void
    \0whole OFFSET           the state was written back: from OFFSET on the log has all of it

Every record carries the epoch of the owner that wrote it in a header. A reader goes through the log
in order and ignores records of an epoch older than the newest one so far. A worker that was frozen
and then writes its pending checkpoint therefore changes nothing.
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
MARK = b"m"  # mark of one event, by the digest of its id; only in the store, unpacked from packs
PROCESSED, CLAIM, RESET, WHOLE = b"\0processed", b"\0claim", b"\0reset", b"\0whole"
UNFINISHED = b"-1"  # the value of WHOLE while it is being written back
EPOCH = "epoch"  # name of the header
EPOCH_MAX = 2**40  # each claim adds one, so a higher epoch cannot come from a worker
# Upper bound of a record's bytes beside key and value: lengths, deltas, the epoch header.
RECORD_OVERHEAD = 64
BATCH_BYTES = 900_000  # limit of one record batch; brokers accept 1 MiB by default

_epoch = struct.Struct(">q")
_mark = struct.Struct(">17s16s")
MARK_BYTES = _mark.size  # size of one mark in a pack
_seen = struct.Struct(">qq")
_pack_key = struct.Struct(">cqqq")
_offset_key = struct.Struct(">cq")
PACK_KEY_BYTES = _pack_key.size


Row = tuple[bytes, bytes | None]  # key and value of a record to write; None is a tombstone


class Logged(Protocol):
    """A record as it was read from the changelog, in the shape of aiokafka's ConsumerRecord."""

    @property
    def offset(self) -> int:
        """Return the offset in the changelog partition."""

    @property
    def key(self) -> bytes:
        """Return the key, which names a row, a pack or a control record."""

    @property
    def value(self) -> bytes | None:
        """Return the value, None for a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Return the headers; the first one is the epoch of the writer."""


class SeenMark(NamedTuple):
    """A note that an event id has taken effect.

    *seen_ms* is the stream time at which it was handled (milliseconds since 1970), *offset* its
    offset in the source.
    """

    seen_ms: int
    offset: int


class OwnershipClaim(msgspec.Struct, frozen=True):
    """A claim by which *owner*, a random id, owns the partition from *epoch* on.

    *worker* names the process for people, *at_ms* is the time of the claim (milliseconds since
    1970).
    """

    epoch: int
    owner: str
    worker: str = ""
    at_ms: int = 0


class SourcePosition(msgspec.Struct, frozen=True):
    """Progress in a partition of the source: the offsets that are settled.

    All offsets below *next_offset* are settled. Settled offsets above it are in *ahead*, as lengths
    of runs: first of offsets that are not settled, then of offsets that are, and so on in turn.

    *stream_ms* is the newest time of the records below *next_offset*, *at_ms* the time of this
    record (both milliseconds since 1970). *counts* has the number of records by outcome since the
    state began. *seek* is the id of the newest operator seek that was carried out.

    *home* is the changelog partition that this was written to and *source_id* the id of the topic
    that the offsets belong to. A version that did not know them left None and "".

    *leader_epoch* (KIP-320) is the epoch of the newest records read at that time: the newest below
    *next_offset*, or later ones. -1 means unknown.
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
_attempts = msgspec.json.Decoder(dict[str, tuple[int, int, int]])  # see `state.failure_state`


def decode_processed(value: bytes) -> SourcePosition:
    """Decode the value of a source position.

    Raises ValueError, or what msgspec raises, when *value* is not valid.
    """
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
    """Return the offset from which on a log has all of the state.

    -1 means that the state is still being written back. Raises ValueError when *value* is no
    number.
    """
    return number_in(value, least=-1)


def size_of(key: bytes, value: bytes | None) -> int:
    """Return the bytes that a record takes in a batch, as an upper bound."""
    return len(key) + len(value or b"") + RECORD_OVERHEAD


def batches(records: Iterable[Row], bytes_max: int) -> Iterator[list[Row]]:
    """Split *records* into batches of at most *bytes_max* bytes, in order.

    A record larger than that gets a batch of its own.
    """
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
    """Return the key of a row, without *key* the prefix of a table."""
    return ROW + table.encode() + b"\0" + key


def table_and_key(row: bytes) -> tuple[str, bytes]:
    """Split the changelog key of a row into table name and table key."""
    table, _, key = row[len(ROW) :].partition(b"\0")
    return table.decode("utf-8", "backslashreplace"), key


def epoch_headers(epoch: int) -> list[tuple[str, bytes]]:
    """Return the headers of every record that the owner with *epoch* writes."""
    return [(EPOCH, epoch_bytes(epoch))]


epoch_bytes = _epoch.pack  # encodes the value of that header


def epoch_of(headers: Iterable[tuple[str, bytes]]) -> int:
    """Return the epoch of a record's writer.

    0, which no owner has, stands for a missing header and for a value that no claim can have.
    """
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
    """Return why a record with *epoch* in its header was not written by an owner.

    The result is empty when an owner may have written it.
    """
    if not key:
        return "it has no key"
    if epoch <= 0:
        return "its header does not say whose it is"
    try:
        return _fault_in(key, value, epoch)
    except MemoryError:
        raise
    except Exception as error:  # any error of a decoder
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
    """Return the key of a row about the event at an offset of the source."""
    return _offset_key.pack(kind, offset)


def offset_of(key: bytes) -> int:
    """Return the source offset in a key made by `offset_key`."""
    return int(_offset_key.unpack(key)[1])


def pack_key(period_ms: int, epoch: int, number: int) -> bytes:
    """Return the key of the *number*-th pack that the owner with *epoch* writes.

    *period_ms* is the start of the pack's period (milliseconds since 1970).
    """
    return _pack_key.pack(PACK, period_ms, epoch, number)


def period_of(pack: bytes) -> int:
    """Return the start of a pack's period from its key, in milliseconds since 1970."""
    return int(_pack_key.unpack(pack)[1])


def pack(marks: Mapping[bytes, bytes]) -> bytes:
    """Encode *marks*, keys and values as in the store, as the value of a pack."""
    return b"".join(chain.from_iterable(marks.items()))


def unpack(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Iterate over the marks of a pack, as their keys and values in the store."""
    return _mark.iter_unpack(value)


def is_pack(value: bytes) -> bool:
    """Return True if *value* is a valid pack: marks and nothing else."""
    count, rest = divmod(len(value), MARK_BYTES)
    return not rest and value[::MARK_BYTES].count(MARK) == count


def newest_ms(marks: Mapping[bytes, bytes]) -> int:
    """Return the time of the newest of *marks*, which are encoded as in the store."""
    return stored_mark(max(marks.values())).seen_ms  # their bytes sort by time


# Encodes time and offset of a `SeenMark`, as the store keeps it under MARK and the digest.
store_mark: Callable[[int, int], bytes] = _seen.pack


def stored_mark(value: bytes) -> SeenMark:
    """Decode a mark as it was read from the store."""
    return SeenMark(*_seen.unpack(value))


def turns(next_offset: int, ahead: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """Encode the settled runs *ahead* of *next_offset* as alternating lengths.

    Each run is a pair of its start and end. The first length counts offsets that are not settled,
    the second one offsets that are, and so on in turn.
    """
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
    """Return the settled runs ahead of the next offset, as pairs of start and end."""
    at = processed.next_offset
    found: list[tuple[int, int]] = []
    for missing, there in zip(processed.ahead[::2], processed.ahead[1::2], strict=True):
        found.append((at + missing, at + missing + there))
        at += missing + there
    return found
