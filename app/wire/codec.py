"""Bytes <-> Records: JSON decoded and validated in one pass by msgspec, by the annotations of a faust.Record.

Faust's own decoding does not validate (a wrong type passes silently) and takes three times as long. A Record decoded
here equals the one that Faust decodes and behaves the same. The sender never chooses a class: metadata in the value,
such as Faust's `__faust`, is ignored.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from functools import partial
from itertools import repeat
from typing import Any, Generic, TypeVar

import faust
import msgspec

from app.errors import DecodeError

R = TypeVar("R", bound=faust.Record)
Convert = Callable[[Any], Any]  # Any: JSON on its way to a field
OfRecord = Callable[[type[faust.Record]], Convert | None]
DECIMAL_EXPONENT_MAX = 100  # 10**100: beyond any amount, and far from the exponents that make arithmetic explode

_at = re.compile(r" - at `(?:key in )?(?P<path>\$[^`]*)`$")
_value = re.compile(r"'.*'", re.DOTALL)  # msgspec quotes a wrong enum value, which is payload


class Codec(Generic[R]):
    """Decodes and encodes one Record class.

    Raises TypeError for a class with a field that JSON cannot carry, naming class and field.
    """

    def __init__(self, record_type: type[R]) -> None:
        self.record_type = record_type
        self.namespace = str(record_type._options.namespace)
        # What `decode` does where nothing is wrong; else it raises whatever msgspec does.
        self.parse: Callable[[bytes | None], R] = msgspec.json.Decoder(_shape(record_type)).decode  # type: ignore[assignment]
        self._unmake = _unmaker(record_type)

    def decode(self, value: bytes | None) -> R:
        """The Record in *value*. Raises DecodeError with the path of the first fault and no word of the payload."""
        if value is None:
            raise DecodeError("$", "no value (a tombstone)")
        try:
            record = self.parse(value)
        except msgspec.ValidationError as error:
            raise fault_in(error) from None
        except UnicodeDecodeError:
            raise DecodeError("$", "not UTF-8") from None
        except msgspec.DecodeError as error:
            raise DecodeError("$", str(error)) from None
        except RecursionError:
            raise DecodeError("$", "nested too deeply") from None
        return record

    def encode(self, record: R) -> bytes:
        """*record* as JSON. Decimals, UUIDs and dates become strings; no metadata is added.

        Raises ValueError for a Decimal that is not finite, TypeError for a value that JSON cannot carry.
        """
        try:
            return msgspec.json.encode(self._unmake(record))
        except _NotFiniteError as error:
            raise ValueError(f"{self.namespace}.{error.field} is not finite or out of range") from None
        except (TypeError, AttributeError, msgspec.MsgspecError) as error:
            raise TypeError(f"{self.namespace} cannot be written as JSON: {error}") from None


def json_of(value: bytes | None) -> Any:
    """What JSON *value* is, None if it is none. For looking at what nobody has declared."""
    try:
        return msgspec.json.decode(value or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


_codecs: dict[type[faust.Record], Codec[Any]] = {}  # Any: each codec is of its own key's type


def codec_of(record_type: type[R]) -> Codec[R]:
    """The codec of a Record class, built once."""
    codec = _codecs.get(record_type)
    if codec is None:
        codec = _codecs[record_type] = Codec(record_type)
    return codec


class _NotJsonError(Exception):
    pass


class _NotFiniteError(ValueError):  # which msgspec turns into its own error, with the path
    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def fault_in(error: msgspec.ValidationError) -> DecodeError:
    """What msgspec describes as `reason - at `path``, without the value that it may quote."""
    message = str(error)
    found = _at.search(message)
    path = found["path"] if found else "$"
    if isinstance(error.__cause__, _NotFiniteError):
        return DecodeError(f"{path}.{error.__cause__.field}", "a decimal that is not finite or out of range")
    reason = message[: found.start()] if found else message
    return DecodeError(path, _value.sub("", reason).strip())


# The shape: what msgspec makes. Record classes cannot be made by it, because their fields are descriptors that it would
# call one by one. So it makes an instance of a dataclass with the same fields, which then becomes a Record: both are
# plain objects with a `__dict__`, between which Python lets `__class__` change.


def _shape(record_type: type[faust.Record], inside: tuple[type, ...] = ()) -> Any:
    if record_type in inside:
        raise TypeError(f"{record_type.__name__} contains itself, which is not supported")
    options = record_type._options
    fields: list[tuple[str, Any, Any]] = []
    for name, annotation in options.fields.items():
        descriptor: Any = getattr(record_type, name)
        if (descriptor.input_name, descriptor.output_name, descriptor.exclude) != (name, name, False):
            raise TypeError(f"{record_type.__name__}.{name} has another name on the wire, which is not supported")
        try:
            shape = _shape_of(annotation, (*inside, record_type))
        except _NotJsonError as error:
            raise TypeError(f"{record_type.__name__}.{name} is a {error}, which JSON cannot carry") from None
        has_default = name in options.defaults
        fields.append((name, shape, _default(options.defaults[name]) if has_default else dataclasses.field()))
    # Faust's descriptors convert a field on its first read unless it stands in here. An instance made by Faust has a
    # set of its own, so this one, on the class, speaks for those made here.
    record_type.__evaluated_fields__ = frozenset(options.fields)  # type: ignore[assignment]
    return dataclasses.make_dataclass(
        record_type.__name__, fields, namespace={"__post_init__": _becomes(record_type)},
        init=False, repr=False, eq=False, kw_only=True,
    )  # fmt: skip


def _default(value: Any) -> Any:
    if isinstance(value, (list, dict, set, faust.Record)):
        return dataclasses.field(default_factory=partial(deepcopy, value))
    # A plain default would be an attribute of the dataclass, and lost when the instance changes its class.
    return dataclasses.field(default_factory=repeat(value).__next__)


def _becomes(record_type: type[faust.Record]) -> Callable[[Any], None]:
    """What makes an instance of the shape a Record."""
    options = record_type._options
    decimals = [name for name, of in options.fields.items() if of is Decimal and name not in options.defaults]
    others = [(name, check) for name, check in _conversions(record_type, lambda _: None) if name not in decimals]
    if not (decimals or others):

        def become_at_once(made: Any) -> None:
            made.__class__ = record_type

        return become_at_once

    def become(made: Any) -> None:
        for name in decimals:  # what `_finite` does, without a call: most events carry amounts
            value = getattr(made, name)
            if not (value.is_finite() and -DECIMAL_EXPONENT_MAX <= value.adjusted() <= DECIMAL_EXPONENT_MAX):
                raise _NotFiniteError(name)
        for name, check in others:
            check(getattr(made, name))
        made.__class__ = record_type

    return become


def _shape_of(annotation: Any, inside: tuple[type, ...]) -> Any:
    if _is_record(annotation):
        return _shape(annotation, inside)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None or origin is typing.Literal:
        if isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType):
            raise _NotJsonError(annotation.__name__)
        return annotation
    if origin in (typing.Union, types.UnionType):
        return typing.Union[tuple(_shape_of(argument, inside) for argument in arguments)]  # noqa: UP007  # at run time
    return origin[tuple(_shape_of(a, inside) if a is not Ellipsis else a for a in arguments)]


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, faust.Record)


# The conversions from what a Record holds to what msgspec writes. Only fields that need one are touched.


def _unmaker(record_type: type[R]) -> Convert:
    """A function from Records to the dicts that JSON is written from."""
    names = tuple(record_type._options.fields)
    conversions = _conversions(record_type, _unmaker)

    def unmake(record: R) -> dict[str, Any]:
        values = {name: getattr(record, name) for name in names}
        for name, convert in conversions:
            values[name] = convert(values[name])
        return values

    return unmake


def _conversions(record_type: type[faust.Record], of_record: OfRecord) -> list[tuple[str, Convert]]:
    fields = record_type._options.fields.items()
    found = ((name, _conversion(annotation, name, of_record)) for name, annotation in fields)
    return [(name, convert) for name, convert in found if convert is not None]


def _conversion(annotation: Any, field: str, of_record: OfRecord) -> Convert | None:
    """How a value of *annotation* is converted, Records by what *of_record* makes; None when it stays as it is."""
    if _is_record(annotation):
        return of_record(annotation)
    if annotation is Decimal:
        return lambda value: _finite(value, field)
    origin = typing.get_origin(annotation)
    arguments = () if origin is typing.Literal else typing.get_args(annotation)
    inner = [_conversion(a, field, of_record) for a in arguments if a not in (types.NoneType, Ellipsis)]
    if not any(inner):
        return None
    each = inner[-1]
    if each is None or (len(inner) > 1 and origin is not dict):
        raise TypeError(f"field {field}: a Record or a Decimal can be optional, in a list, a set or a tuple[X, ...], "
                        f"or be the value of a dict, but not in {annotation}")  # fmt: skip
    return _conversion_inside(origin, each)


def _conversion_inside(container: Any, each: Convert) -> Convert:
    """How a *container* is converted whose values are converted by *each*."""
    if container in (typing.Union, types.UnionType):
        return lambda value: None if value is None else each(value)
    if container is dict:
        return lambda values: {key: each(value) for key, value in values.items()}
    if container is list:
        return lambda values: [each(value) for value in values]
    return lambda values: container(map(each, values))


def _finite(value: Any, field: str) -> Any:  # Any: before encoding, a Record may hold anything
    if not isinstance(value, Decimal):
        return value
    if value.is_finite() and -DECIMAL_EXPONENT_MAX <= value.adjusted() <= DECIMAL_EXPONENT_MAX:
        return value
    raise _NotFiniteError(field)
