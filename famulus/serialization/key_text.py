"""Convert the value of a key field to a record key.

Publishing, subjects and imported rows all use the function here. The text is the value in JSON
without quotes, as it is for the keys of tables. A row and the events of its key therefore belong to
the same partition, and a client in another language, which only has the JSON, finds them.
"""

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import msgspec

_AS_JSON = (datetime, date, time, timedelta, UUID, Decimal)


def key_bytes(key: object) -> bytes | None:
    """Return the record key for *key*.

    Bytes stay unchanged, None stays None, and any other value becomes its text as UTF-8. An
    enumeration member is converted by its value. Raises TypeError for values without a unique text,
    such as a list or NaN.
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
