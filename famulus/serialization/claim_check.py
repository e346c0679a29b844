"""The claim check: a payload that is too large for Kafka lies in a store, and its record says which one it is.

Such a record has a small value, its own headers, and behind them three of ours: the reference, the
size and the SHA-256 of what it stands for. The reference is TOPIC/SHA-256, so publishing an event
again writes the same blob, and there is nothing in it that a sender could choose: it is compared
with what it must be, and never followed. Pure: no store, no Kafka, no clock.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol, cast

from famulus.errors import ClaimError
from famulus.serialization.records import ConsumerRecord, Headers, ProducerRecord, RecordCopy

# JSON, as the content type says, and never an event; not null, which would delete the key from a
# compacted topic.
CLAIMED = b'"famulus-claim"'
MARK = "famulus-claim-"
REFERENCE, SIZE, SHA256 = MARK + "reference", MARK + "size", MARK + "sha256"

_topic = re.compile(r"(?!\.{1,2}/)[A-Za-z0-9._-]{1,249}/", re.ASCII)
_digest = re.compile(r"[0-9a-f]{64}", re.ASCII)
_size = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PayloadClaim:
    """Which blob a record of *topic* (as on the cluster) stands for. *size* is in bytes."""

    topic: str
    sha256: str
    size: int

    @property
    def reference(self) -> str:
        """The blob's name in the store."""
        return f"{self.topic}/{self.sha256}"


def claim_for(topic: str, value: bytes) -> PayloadClaim:
    """The claim to *value*, which takes as long as its digest."""
    return PayloadClaim(topic, sha256(value).hexdigest(), len(value))


def checked_in(record: ProducerRecord, claim: PayloadClaim) -> ProducerRecord:
    """What leaves in the place of *record*, when the blob is where *claim* says."""
    ours = [(REFERENCE, claim.reference), (SIZE, str(claim.size)), (SHA256, claim.sha256)]
    return replace(
        record,
        value=CLAIMED,
        headers=[*_others(record.headers), *((name, text.encode()) for name, text in ours)],
    )


def _others(headers: Headers) -> Sequence[tuple[str, bytes]]:
    """Those that are none of ours: a handler may pass on what it got."""
    return [header for header in headers if not header[0].startswith(MARK)]


class Carried(Protocol):
    """What says whether a record is a claim check."""

    @property
    def value(self) -> bytes | None:
        """Its value."""

    @property
    def headers(self) -> Headers:
        """Its headers."""


def is_claim_check(record: Carried) -> bool:
    """Whether *record* stands for a blob."""
    return record.value == CLAIMED and any(name.startswith(MARK) for name, _ in record.headers)


def claim_of(record: ConsumerRecord, bytes_max: int) -> PayloadClaim:
    """What *record*, a claim check, stands for: at most *bytes_max*.

    Raises ClaimError when its headers are not what they must be. Their texts are a stranger's and
    are not quoted.
    """
    reference, size, digest = (_only(record.headers, name) for name in (REFERENCE, SIZE, SHA256))
    if not _digest.fullmatch(digest):
        raise ClaimError("the digest is not 64 hexadecimal digits in lower case")
    if not _size.fullmatch(size):
        raise ClaimError("the size is not a number of bytes")
    if int(size) > bytes_max:
        raise ClaimError(f"{int(size)} bytes, ClaimCheck.MaxBytes is {bytes_max}")
    claim = PayloadClaim(record.topic, digest, int(size))
    if reference != claim.reference or not is_reference(reference):
        raise ClaimError("the reference is not the digest below the record's topic")
    return claim


def _only(headers: Headers, name: str) -> str:
    found = [value for other, value in headers if other == name]
    if len(found) != 1:
        raise ClaimError(f"{len(found)} headers {name}")
    try:
        return (found[0] or b"").decode("ascii")
    except UnicodeDecodeError:
        raise ClaimError(f"the header {name} is not ASCII") from None


def is_reference(path: str) -> bool:
    """Whether *path* is the name of a blob of ours."""
    topic = _topic.match(path)
    return topic is not None and _digest.fullmatch(path, topic.end()) is not None


class Receipt:
    """What arrives of a blob, piece by piece, into memory of exactly its size; checked against *claim*."""

    def __init__(self, claim: PayloadClaim) -> None:
        self._claim = claim
        self._bytes = bytearray(claim.size)
        self._digest = sha256()
        self._size = 0

    def add(self, piece: memoryview) -> None:
        """Take the next piece. Raises ClaimError as soon as there is too much."""
        end = self._size + piece.nbytes
        if end > self._claim.size:
            raise ClaimError(
                f"the blob has more than the {self._claim.size} bytes that the record says"
            )
        self._bytes[self._size : end] = piece
        self._digest.update(piece)
        self._size = end

    def payload(self) -> bytes:
        """All of it. Raises ClaimError when it is not what was claimed."""
        if self._size != self._claim.size:
            raise ClaimError(f"the blob has {self._size} bytes, the record says {self._claim.size}")
        if self._digest.hexdigest() != self._claim.sha256:
            raise ClaimError("the blob does not have the digest that the record says")
        # Reads the same, and a copy would take as much memory again.
        return cast("bytes", self._bytes)


def redeemed(record: ConsumerRecord, payload: bytes) -> RecordCopy:
    """*record* as it would be if it carried its payload."""
    return RecordCopy(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        payload,
        record.headers,
    )
