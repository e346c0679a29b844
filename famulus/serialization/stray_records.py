"""Records of the group's own topics that cannot be read: each ends at itself, whatever is in it.

Pure.

Whoever may write to such a topic may put anything into it: bytes that are no text, JSON nested a
thousand times, numbers of four hundred digits. So every decoder of one is called by `read`, and
what it raises becomes one error that names the place and quotes nothing of the record.
"""

import re
import struct
from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from famulus.errors import DecodeError

T = TypeVar("T")
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1
_digits = re.compile(rb"-?[0-9]{1,19}")
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (RecursionError, "nested too deeply"),
    (UnicodeError, "not UTF-8"),
    (msgspec.ValidationError, "JSON of another shape"),
    (msgspec.DecodeError, "not JSON"),
    (struct.error, "bytes of another length"),
    (KeyError, "a part is missing"),
    (OverflowError, "a number out of range"),
    (ValueError, "no record of the kind that its topic has"),
)


class Placed(Protocol):
    """A record as far as it says where it stands."""

    @property
    def topic(self) -> str:
        """Its topic, as named on the cluster."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offset(self) -> int:
        """Its offset."""


P = TypeVar("P", bound=Placed)


class StrayRecordError(DecodeError):
    """A record of a topic of the group's own cannot be read. *reason* quotes nothing of it."""

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"{topic}/{partition}/{offset}", reason)
        self.topic = topic
        self.partition = partition
        self.offset = offset


def read(record: P, decode: Callable[[P], T]) -> T:
    """Return what *decode* makes of *record*. Raises StrayRecordError whatever *decode* raises."""
    try:
        return decode(record)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, it ends at this record
        raise StrayRecordError(
            record.topic, record.partition, record.offset, reason_of(error)
        ) from None


def reason_of(error: Exception) -> str:
    """Say what is wrong with the bytes that a decoder refused with *error*, without a word of them."""
    if isinstance(error, DecodeError):
        return error.reason
    known = (reason for kind, reason in _REASONS if isinstance(error, kind))
    return next(known, f"it cannot be read ({type(error).__name__})")


def number_in(digits: bytes, least: int = 0, most: int = INT64_MAX) -> int:
    """Return the whole number that *digits* say.

    Raises ValueError unless it is from *least* to *most*.
    """
    if _digits.fullmatch(digits) is None or not least <= (number := int(digits)) <= most:
        raise ValueError(f"no number from {least} to {most}")
    return number
