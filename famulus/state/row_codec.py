"""Keys and values of tables as bytes.

A value that could not be decoded again is refused when it is written. Encoding alone accepts what
decoding refuses: a float that is not finite becomes null, and None and texts pass for any type.
Everything that is not of a plain type is therefore decoded once before it is kept.

This module is pure: no Kafka, no store.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import faust
import msgspec

from famulus.errors import DecodeError
from famulus.serialization.json_codec import UnwritableError, codec_of, fault_in

Decode = Callable[[bytes], Any]  # Any, here and below: a type of the table
Encode = Callable[[Any], bytes]
Fault = tuple[str, str]  # the JSON path, and the fault there
# Values of exactly these types, not of subclasses, are always decoded as they were encoded.
PLAIN = int, str, bool, UUID
IMMUTABLE = (
    int,
    str,
    bool,
    float,
    bytes,
    Decimal,
    UUID,
    date,
    datetime,
    time,
    timedelta,
    tzinfo,
    Enum,
    types.NoneType,
)


class RefusedError(Exception):
    """A key or a value cannot be kept.

    *is_type* is True if its type is wrong, False if only its value is.
    """

    def __init__(self, path: str, reason: str, *, is_type: bool = True) -> None:
        super().__init__(f"{path}: {reason}")
        self.is_type = is_type


class Coder:
    """Encodes and decodes the keys or the values of one type.

    Instances of the type *plain* need no check; *plain* is a class without instances when there is
    no such type.
    """

    def __init__(self, of: Any, encode: Encode, decode: Decode) -> None:
        self.name = name_of(of)
        self.encode = encode
        self.decode = decode
        self.plain: type = of if of in PLAIN else _Nothing

    def checked(self, given: Any) -> bytes:
        """Encode *given* and check that it decodes to the same value.

        Raises RefusedError when it does not.
        """
        return self._checked(given)[0]

    def canonical(self, key: Any) -> bytes:
        """Encode a key with the check of `checked`, so that equal keys have equal bytes.

        An int, for example, is encoded as a float where the table's keys are floats.
        """
        raw, read = self._checked(key)
        return raw if type(read) is type(key) else self.encode(read)

    def _checked(self, given: Any) -> tuple[bytes, Any]:
        try:
            raw = self.encode(given)
        except Exception as error:  # the code of a user's type may raise anything
            raise refused(error) from None
        try:
            read = self.decode(raw)
            is_same = type(read) is type(given) and bool(read == given)
        except Exception as error:  # as above
            raise _not_finite(given) or RefusedError(*fault_of(error)) from None
        if not is_same and (found := difference(given, read)) is not None:
            raise _not_finite(given) or RefusedError(*found)
        return raw, read


class _Nothing:
    """A class without instances."""


def name_of(of: Any) -> str:
    """Return the name of a type as people write it."""
    return (
        of.__qualname__
        if isinstance(of, type) and not typing.get_args(of)
        else str(of).removeprefix("typing.")
    )


def value_coder(of: Any) -> Coder:
    """Return the coder for values of one type."""
    if isinstance(of, type) and issubclass(of, faust.Record):
        codec = codec_of(of)
        return Coder(of, codec.encode, codec.decode)
    return Coder(of, msgspec.json.encode, msgspec.json.Decoder(of).decode)


def key_coder(of: Any) -> Coder:
    """Return the coder for keys of one type.

    Texts are encoded without quotes, so that keys are readable in a URL and in any tool.
    """
    if of is str:
        return Coder(of, str.encode, bytes.decode)
    if isinstance(of, type) and issubclass(of, faust.Record):
        return value_coder(of)
    decoder = msgspec.json.Decoder(of)

    def decode(raw: bytes) -> Any:
        try:
            return decoder.decode(raw)
        except msgspec.DecodeError:
            return decoder.decode(b'"' + raw + b'"')

    return Coder(of, _without_quotes, decode)


def _without_quotes(key: Any) -> bytes:
    raw = msgspec.json.encode(key)
    return raw[1:-1] if raw[:1] == b'"' else raw


def is_mutable(of: Any) -> bool:
    """Return True if values of the annotated type may be changed in place."""
    if isinstance(of, typing.NewType):
        return is_mutable(of.__supertype__)
    origin, arguments = typing.get_origin(of), typing.get_args(of)
    if origin is typing.Literal:
        return False
    if origin is typing.Annotated:
        return is_mutable(arguments[0])
    if origin in (typing.Union, types.UnionType, tuple, frozenset):
        return any(is_mutable(argument) for argument in arguments if argument is not Ellipsis)
    return not (of is None or (isinstance(of, type) and issubclass(of, IMMUTABLE)))


# Faults contain names and types only: values are private, and msgspec and Python quote some.


def fault_of(error: Exception) -> Fault:
    """Return the place and the reason of a decoding error."""
    if isinstance(error, msgspec.ValidationError):
        error = fault_in(error)
    if isinstance(error, DecodeError):
        return error.path, error.reason
    if isinstance(error, UnicodeError):
        return "$", "not UTF-8"
    if isinstance(error, RecursionError):
        return "$", "nested too deeply"
    return "$", str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__


def refused(error: Exception) -> RefusedError:
    """Convert an encoding error to a RefusedError."""
    if isinstance(error, UnwritableError):
        return RefusedError(error.path, error.reason, is_type=isinstance(error, TypeError))
    if isinstance(error, UnicodeError):
        return RefusedError("$", "a text that UTF-8 cannot carry", is_type=False)
    if isinstance(error, RecursionError):
        return RefusedError("$", "nested too deeply", is_type=False)
    says = (
        str(error)
        if isinstance(error, (TypeError, ValueError, OverflowError))
        else type(error).__name__
    )
    return RefusedError("$", says, is_type=not isinstance(error, (ValueError, OverflowError)))


def difference(given: Any, read: Any, path: str = "$") -> Fault | None:
    """Return where and how *read* differs from what was *given*, None if it does not."""
    if not _is_alike(given, read):
        return path, f"`{type(given).__name__}` would be read as `{type(read).__name__}`"
    pairs = _inside(read, given, path)
    if pairs is None:
        return path, f"a `{type(given).__name__}` of other keys or another length would be read"
    if pairs:
        return next(
            (
                found
                for pair in pairs
                if (found := difference(pair[1], pair[0], pair[2])) is not None
            ),
            None,
        )
    try:
        is_same = bool(given == read) or not _has_equality(read)
    except Exception:  # the code of a user's type may raise anything
        is_same = False
    return None if is_same else (path, f"another `{type(read).__name__}` would be read")


def _is_alike(given: Any, read: Any) -> bool:
    if type(given) is type(read):
        return True
    if isinstance(given, bool) or isinstance(read, faust.Record):
        return False
    if isinstance(given, int) and isinstance(read, (float, Decimal)):
        return True
    return isinstance(given, type(read)) or (
        isinstance(given, (set, frozenset)) and isinstance(read, (set, frozenset))
    )


def _has_equality(value: Any) -> bool:
    """Return True if the class defines equality, instead of identity only."""
    return any("__eq__" in kind.__dict__ for kind in type(value).__mro__[:-1])


def _inside(one: Any, other: Any, path: str) -> list[tuple[Any, Any, str]] | None:
    """Return the pairs inside *one* and *other* that are to be compared, with their paths.

    Returns None when the two have different keys or lengths.
    """
    if isinstance(one, Mapping):
        return (
            [(one[k], other[k], f"{path}[...]") for k in one]
            if one.keys() == other.keys()
            else None
        )
    if isinstance(one, (list, tuple)):
        same = len(one) == len(other)
        return (
            [(*pair, f"{path}[{n}]") for n, pair in enumerate(zip(one, other, strict=True))]
            if same
            else None
        )
    return [(getattr(one, name), getattr(other, name), f"{path}.{name}") for name in _fields(one)]


def _fields(value: Any) -> Collection[str]:
    if isinstance(value, faust.Record):
        return value._options.fields
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return (
        [field.name for field in dataclasses.fields(value)]
        if dataclasses.is_dataclass(value)
        else ()
    )


def _not_finite(value: Any) -> RefusedError | None:
    """Return the refusal of the first number in *value* that is not finite, if any."""
    path = next(_paths_not_finite(value, "$"), None)
    return (
        None if path is None else RefusedError(path, "a number that is not finite", is_type=False)
    )


def _paths_not_finite(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, float):
        if not math.isfinite(value):
            yield path
    elif isinstance(value, Decimal):
        if not value.is_finite():
            yield path
    elif isinstance(value, (set, frozenset)):
        for each in value:
            yield from _paths_not_finite(each, f"{path}[...]")
    else:
        for one, _, inner in _inside(value, value, path) or ():
            yield from _paths_not_finite(one, inner)
