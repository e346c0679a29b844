"""Bytes <-> Records: JSON decoded and validated in one pass by msgspec, by the annotations of a faust.Record.

Faust's own decoding does not validate (a wrong type passes silently) and takes three times as long. A Record decoded
here equals the one that Faust decodes and behaves the same. The sender never chooses a class: metadata in the value,
such as Faust's `__faust`, is ignored.
"""

import re
import types
import typing
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

import faust
import msgspec

from app.errors import DecodeError

R = TypeVar("R", bound=faust.Record)
Convert = Callable[[Any], Any]  # Any: JSON on its way to a field
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
        self._decoder = msgspec.json.Decoder(_shape(record_type))
        self._make = _maker(record_type)
        self._unmake = _unmaker(record_type)

    def decode(self, value: bytes | None) -> R:
        """The Record in *value*. Raises DecodeError with the path of the first fault and no word of the payload."""
        if value is None:
            raise DecodeError("$", "no value (a tombstone)")
        try:
            record: R = self._make(self._decoder.decode(value))
        except msgspec.ValidationError as error:
            raise _fault(str(error)) from None
        except UnicodeDecodeError:
            raise DecodeError("$", "not UTF-8") from None
        except msgspec.DecodeError as error:
            raise DecodeError("$", str(error)) from None
        except RecursionError:
            raise DecodeError("$", "nested too deeply") from None
        except _NotFiniteError as error:
            raise DecodeError(f"$.{error.field}", "a decimal that is not finite or out of range") from None
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


_codecs: dict[type[faust.Record], Codec[Any]] = {}  # Any: each codec is of its own key's type


def codec_of(record_type: type[R]) -> Codec[R]:
    """The codec of a Record class, built once."""
    codec = _codecs.get(record_type)
    if codec is None:
        codec = _codecs[record_type] = Codec(record_type)
    return codec


class _NotJsonError(Exception):
    pass


class _NotFiniteError(Exception):
    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def _fault(message: str) -> DecodeError:
    """The error that msgspec describes as `reason - at `path``, without the value that it may quote."""
    found = _at.search(message)
    reason = message[: found.start()] if found else message
    return DecodeError(found["path"] if found else "$", _value.sub("", reason).strip())


# The shape: what msgspec validates. A Record is a TypedDict there, because dicts become `__dict__` for nothing.


def _shape(record_type: type[faust.Record], inside: tuple[type, ...] = ()) -> Any:
    if record_type in inside:
        raise TypeError(f"{record_type.__name__} contains itself, which is not supported")
    options = record_type._options
    fields: dict[str, Any] = {}
    for name, annotation in options.fields.items():
        descriptor: Any = getattr(record_type, name)
        if (descriptor.input_name, descriptor.output_name, descriptor.exclude) != (name, name, False):
            raise TypeError(f"{record_type.__name__}.{name} has another name on the wire, which is not supported")
        try:
            shape = _shape_of(annotation, (*inside, record_type))
        except _NotJsonError as error:
            raise TypeError(f"{record_type.__name__}.{name} is a {error}, which JSON cannot carry") from None
        fields[name] = NotRequired[shape] if name in options.defaults else shape
    typed_dict: Any = TypedDict  # made at run time, which a type checker cannot follow
    return typed_dict(record_type.__name__, fields)


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


# The conversions between what msgspec reads or writes and what a Record holds. Only fields that need one are touched.


def _is_list_of_records(annotation: Any) -> bool:
    return typing.get_origin(annotation) is list and _is_record(typing.get_args(annotation)[0])


def _maker(record_type: type[R]) -> Convert:
    """A function from decoded dicts, which it keeps, to Records."""
    options = record_type._options
    conversions = _conversions(record_type, _maker)
    decimals = [name for name in options.fields if options.fields[name] is Decimal and name not in options.defaults]
    nested = [(name, _maker(typing.get_args(annotation)[0])) for name, annotation in options.fields.items()
              if name not in options.defaults and _is_list_of_records(annotation)]  # fmt: skip
    done = {*options.defaults, *decimals, *(name for name, _ in nested)}
    required = [(name, convert) for name, convert in conversions if name not in done]
    optional = [(name, convert) for name, convert in conversions if name in options.defaults]
    defaults = {name: options.defaults[name] for name in options.fields if name in options.defaults}
    mutable = [name for name, default in defaults.items() if isinstance(default, (list, dict, set, faust.Record))]
    # Faust's descriptors convert a field on its first read unless it stands in here. An instance made by Faust has a
    # set of its own, so this one, on the class, speaks for those made below.
    record_type.__evaluated_fields__ = frozenset(options.fields)  # type: ignore[assignment]
    new = record_type.__new__

    def make(values: dict[str, Any]) -> R:
        for name in decimals:  # what `_finite` does, without a call: most events carry amounts
            value = values[name]
            if not (value.is_finite() and -DECIMAL_EXPONENT_MAX <= value.adjusted() <= DECIMAL_EXPONENT_MAX):
                raise _NotFiniteError(name)
        for name, make_item in nested:  # and this without one more call
            values[name] = [make_item(item) for item in values[name]]
        for name, convert in required:
            values[name] = convert(values[name])
        for name, convert in optional:
            if name in values:
                values[name] = convert(values[name])
        for name in mutable:
            if name not in values:
                values[name] = deepcopy(defaults[name])
        record = new(record_type)
        record.__dict__ = {**defaults, **values} if defaults else values
        return record

    return make


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


def _conversions(record_type: type[faust.Record], of_record: Callable[[Any], Convert]) -> list[tuple[str, Convert]]:
    fields = record_type._options.fields.items()
    found = ((name, _conversion(annotation, name, of_record)) for name, annotation in fields)
    return [(name, convert) for name, convert in found if convert is not None]


def _conversion(annotation: Any, field: str, of_record: Callable[[Any], Convert]) -> Convert | None:
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
