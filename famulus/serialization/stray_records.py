"""Errors of unreadable records in the group's own topics. Pure.

Any client with access to such a topic may write any bytes to it: no UTF-8, JSON nested a thousand
times, numbers of four hundred digits. Every decoder for such a topic is therefore called by `read`,
which turns any exception into one error. The error names the record's position and quotes none of
its content.
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
    """Part of a record that identifies its position in the log."""

    @property
    def topic(self) -> str:
        """Return the topic, as named on the cluster."""

    @property
    def partition(self) -> int:
        """Return the partition."""

    @property
    def offset(self) -> int:
        """Return the offset."""


P = TypeVar("P", bound=Placed)


class StrayRecordError(DecodeError):
    """A record of one of the group's own topics cannot be read.

    *reason* quotes none of its content.
    """

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"{topic}/{partition}/{offset}", reason)
        self.topic = topic
        self.partition = partition
        self.offset = offset


def read(record: P, decode: Callable[[P], T]) -> T:
    """Return the result of *decode* for *record*.

    Raises StrayRecordError for any exception of *decode* but MemoryError.
    """
    try:
        return decode(record)
    except MemoryError:
        raise
    except Exception as error:  # no exception may end more than this record
        raise StrayRecordError(
            record.topic, record.partition, record.offset, reason_of(error)
        ) from None


def reason_of(error: Exception) -> str:
    """Return a reason for a decoder's *error* that quotes none of the bytes."""
    if isinstance(error, DecodeError):
        return error.reason
    known = (reason for kind, reason in _REASONS if isinstance(error, kind))
    return next(known, f"it cannot be read ({type(error).__name__})")


def number_in(digits: bytes, least: int = 0, most: int = INT64_MAX) -> int:
    """Return the whole number in *digits*.

    Raises ValueError unless it is from *least* to *most*.
    """
    if _digits.fullmatch(digits) is None or not least <= (number := int(digits)) <= most:
        raise ValueError(f"no number from {least} to {most}")
    return number
