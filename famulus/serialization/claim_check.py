"""Claim check: a record that refers to a payload too large for Kafka.

Such a record has a small value, its own headers, and three more behind them: the reference, the
size and the SHA-256 of its payload. The reference is TOPIC/SHA-256, so publishing an event again
writes the same blob. A sender cannot choose any part of it: the reference is compared with the
expected one and never followed. Pure: no store, no Kafka, no clock.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol, cast

from famulus.errors import ClaimError
from famulus.serialization.records import ConsumerRecord, Headers, ProducerRecord, RecordCopy

# Valid JSON, to match the content type, but never a valid event. A null value would delete the key
# from a compacted topic.
CLAIMED = b'"famulus-claim"'
MARK = "famulus-claim-"
REFERENCE, SIZE, SHA256 = MARK + "reference", MARK + "size", MARK + "sha256"

_topic = re.compile(r"(?!\.{1,2}/)[A-Za-z0-9._-]{1,249}/", re.ASCII)
_digest = re.compile(r"[0-9a-f]{64}", re.ASCII)
_size = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PayloadClaim:
    """Claim to the blob that a record of *topic* (as on the cluster) refers to.

    *size* is in bytes.
    """

    topic: str
    sha256: str
    size: int

    @property
    def reference(self) -> str:
        """Return the blob's name in the store."""
        return f"{self.topic}/{self.sha256}"


def claim_for(topic: str, value: bytes) -> PayloadClaim:
    """Return the claim to *value*; takes as long as its digest."""
    return PayloadClaim(topic, sha256(value).hexdigest(), len(value))


def checked_in(record: ProducerRecord, claim: PayloadClaim) -> ProducerRecord:
    """Return the claim check that leaves in the place of *record*.

    The blob must be in the store already, as *claim* describes it.
    """
    ours = [(REFERENCE, claim.reference), (SIZE, str(claim.size)), (SHA256, claim.sha256)]
    return replace(
        record,
        value=CLAIMED,
        headers=[*_others(record.headers), *((name, text.encode()) for name, text in ours)],
    )


def _others(headers: Headers) -> Sequence[tuple[str, bytes]]:
    """Return the headers that are not those of a claim check.

    A handler may pass on the headers that it received.
    """
    return [header for header in headers if not header[0].startswith(MARK)]


class Carried(Protocol):
    """Part of a record that shows whether it is a claim check."""

    @property
    def value(self) -> bytes | None:
        """Return the record's value."""

    @property
    def headers(self) -> Headers:
        """Return the record's headers."""


def is_claim_check(record: Carried) -> bool:
    """Return whether *record* is a claim check."""
    return record.value == CLAIMED and any(name.startswith(MARK) for name, _ in record.headers)


def claim_of(record: ConsumerRecord, bytes_max: int) -> PayloadClaim:
    """Return the claim in the headers of *record*, a claim check.

    Raises ClaimError when a header is missing, repeated or wrong, or when the size is more than
    *bytes_max*. The error quotes no header, because another party wrote them.
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
    """Return whether *path* is a name that Famulus gives to blobs."""
    topic = _topic.match(path)
    return topic is not None and _digest.fullmatch(path, topic.end()) is not None


class Receipt:
    """Received bytes of a blob, checked against *claim*.

    The buffer has exactly the claimed size, and is filled piece by piece.
    """

    def __init__(self, claim: PayloadClaim) -> None:
        self._claim = claim
        self._bytes = bytearray(claim.size)
        self._digest = sha256()
        self._size = 0

    def add(self, piece: memoryview) -> None:
        """Append the next piece.

        Raises ClaimError as soon as there are more bytes than claimed.
        """
        end = self._size + piece.nbytes
        if end > self._claim.size:
            raise ClaimError(
                f"the blob has more than the {self._claim.size} bytes that the record says"
            )
        self._bytes[self._size : end] = piece
        self._digest.update(piece)
        self._size = end

    def payload(self) -> bytes:
        """Return the whole payload.

        Raises ClaimError when size or digest differ from the claim.
        """
        if self._size != self._claim.size:
            raise ClaimError(f"the blob has {self._size} bytes, the record says {self._claim.size}")
        if self._digest.hexdigest() != self._claim.sha256:
            raise ClaimError("the blob does not have the digest that the record says")
        # A bytearray is as good for reading, and a copy would double the memory.
        return cast("bytes", self._bytes)


def redeemed(record: ConsumerRecord, payload: bytes) -> RecordCopy:
    """Return a copy of *record* with *payload* as its value."""
    return RecordCopy(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        payload,
        record.headers,
    )
