"""The key of a record from a field's value: one function for publishing, subjects, and the rows that are imported.

The text is what JSON has for the value, without quotes: that of a table's key too, so that a row
and the events of its key stand in the same partition, and another language's client, which has only
the JSON, finds them.
"""

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import msgspec

_AS_JSON = (datetime, date, time, timedelta, UUID, Decimal)


def key_bytes(key: object) -> bytes | None:
    """The record key that *key* stands for: bytes as they are, None as none, anything else by its text.

    An enumeration's is that of its value. Raises TypeError for what has no one text, such as a list
    or NaN.
    """
    if key is None or type(key) is bytes:
        return key
    if type(key) is str:
        return _utf8(key)
    return _key_bytes(key)


def _key_bytes(key: object) -> bytes | None:
    if isinstance(key, Enum):
        return key_bytes(key.value)
    if isinstance(key, str):
        return _utf8(str.__str__(key))
    if isinstance(key, bool):
        return b"true" if key else b"false"
    if isinstance(key, int):
        return int.__repr__(key).encode()
    if isinstance(key, (bytes, bytearray, memoryview)):
        return bytes(key)
    is_number = isinstance(key, (float, Decimal))
    if (is_number and math.isfinite(key)) or (not is_number and isinstance(key, _AS_JSON)):  # type: ignore[arg-type]
        return msgspec.json.encode(key).strip(b'"')
    what = "a number that is not finite" if is_number else f"a {type(key).__name__}"
    raise TypeError(
        f"{what} cannot be the key of a record: a key is a text, bytes, a number, a truth, a "
        "UUID, a time, "
        "or an enumeration of these"
    )


def _utf8(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise TypeError("a text with half of a UTF-16 pair cannot be the key of a record") from None
