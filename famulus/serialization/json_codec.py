"""JSON codec of Records: msgspec decodes and validates by the class's annotations.

Both happen in one pass. Faust's own decoding does not validate (a wrong type passes silently) and
takes three times as long. A Record decoded here equals the one that Faust decodes and behaves the
same. The sender never chooses a class: metadata in the value, such as Faust's `__faust`, is
ignored.
"""

import collections.abc
import dataclasses
import datetime as dt
import json
import math
import re
import types
import typing
from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from enum import Enum
from functools import partial
from itertools import repeat
from typing import Any, Generic, TypeVar
from uuid import UUID

import faust
import msgspec

from famulus.errors import DecodeError

R = TypeVar("R", bound=faust.Record)
Check = Callable[[Any], Any]  # Any: the value of a field
# 10**100: larger than any amount, and far below exponents that make arithmetic extremely slow.
DECIMAL_EXPONENT_MAX = 100

# For the check before writing: msgspec accepts only instances of these types, not their text form.
_AS_THEY_ARE = (
    UUID,
    dt.datetime,
    dt.date,
    dt.time,
    dt.timedelta,
    Decimal,
    bytes,
    bytearray,
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_at = re.compile(r" - at `(?:(?P<key>key)` in `)?(?P<path>\$[^`]*)`$")
# Messages of msgspec, up to the point where they may quote a value. Field names and types in them
# come from the class, never from the sender.
_said = re.compile(
    r"Expected `[^`']*`, got `[^`']*`"
    r"|Expected `\w+` of length (?:>=|<=) \d+"
    r"|Expected `\w+` (?:>=|<=|>|<) -?[\d.e+-]+"
    r"|Expected `array` of (?:at least |at most )?length \d+(?: to \d+)?(?:, got \d+)?"
    r"|Expected `\w+` with (?:a|no) timezone component"
    r"|Expected `\w+` that's a multiple of -?[\d.e+-]+"
    r"|Expected `str` matching regex"
    r"|Object missing required field `\w+`"
    r"|Object contains unknown field"
    r"|Invalid (?:enum value|value|UUID bytes|UUID|decimal string|base64 encoded string)"
    r"|Invalid (?:epoch timestamp|ISO8601 duration)"
    r"|Invalid RFC3339 encoded (?:datetime|date|time)"
    r"|(?:Integer value|Number|Duration|Timestamp) (?:is )?out of range"
    r"|JSON is malformed: [\w ',\"\]}:-]+ \(byte \d+\)"
    r"|Input data was truncated"
)


class UnwritableError(Exception):
    """An event that its own reader would refuse.

    *path* is that of the first fault; *reason* quotes no value.
    """

    def __init__(self, namespace: str, path: str, reason: str) -> None:
        super().__init__(f"{namespace}{path[1:]} cannot be written: {reason}")
        self.path = path
        self.reason = reason


class UnwritableTypeError(UnwritableError, TypeError):
    """A value is not of its field's type."""


class UnwritableValueError(UnwritableError, ValueError):
    """A value of the right type that JSON cannot represent, such as NaN."""


class Codec(Generic[R]):
    """Decodes and encodes one Record class.

    Raises TypeError for a class with a field that JSON cannot represent, naming class and field.
    """

    def __init__(self, record_type: type[R]) -> None:
        self.record_type = record_type
        self.namespace = str(record_type._options.namespace)
        # As `decode` for a valid value; for any other it raises msgspec's own errors.
        self.parse: Callable[[bytes | None], R] = msgspec.json.Decoder(_shape(record_type)).decode  # type: ignore[assignment]
        self._check = _struct(record_type)

    def decode(self, value: bytes | None) -> R:
        """Return the Record in *value*.

        Raises DecodeError with the path of the first fault, quoting none of the payload.
        """
        if value is None:
            raise DecodeError("$", "no value (a tombstone)")
        try:
            record = self.parse(value)
        except msgspec.ValidationError as error:
            raise fault_in(error) from None
        except UnicodeDecodeError:
            raise DecodeError("$", "not UTF-8") from None
        except msgspec.DecodeError as error:
            raise DecodeError("$", _why_not_json(value, error)) from None
        except RecursionError:
            raise DecodeError("$", "nested too deeply") from None
        return record

    def encode(self, record: R) -> bytes:
        """Return *record* as JSON.

        Decimals, UUIDs and dates become strings; no metadata is added. A record that `decode` would
        refuse is refused, too. The error names class and field but no value: ValueError for a
        number that is not finite, TypeError for a value of another type than its field's.
        """
        try:
            made = msgspec.convert(
                record, self._check, builtin_types=_AS_THEY_ARE, from_attributes=True
            )
            return msgspec.json.encode(made)
        except msgspec.ValidationError as error:
            fault = fault_in(error)
            kind = (
                UnwritableValueError
                if isinstance(error.__cause__, _NotFiniteError)
                else UnwritableTypeError
            )
            raise kind(self.namespace, fault.path, fault.reason) from None
        except UnicodeEncodeError:
            raise UnwritableValueError(
                self.namespace, "$", "a text with half a UTF-16 pair"
            ) from None
        except RecursionError:
            raise UnwritableValueError(self.namespace, "$", "nested too deeply") from None
        except (
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            msgspec.MsgspecError,
        ) as error:
            reason = f"a value that JSON cannot carry ({type(error).__name__})"
            raise UnwritableTypeError(self.namespace, "$", reason) from None


def json_of(value: bytes | None) -> Any:
    """Return the content of JSON *value*, None if it is not JSON.

    For the display of values without a declared type.
    """
    try:
        return msgspec.json.decode(value or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


_codecs: dict[type[faust.Record], Codec[Any]] = {}  # Any: each codec is of its own key's type


def codec_of(record_type: type[R]) -> Codec[R]:
    """Return the codec of a Record class; it is built once."""
    codec = _codecs.get(record_type)
    if codec is None:
        codec = _codecs[record_type] = Codec(record_type)
    return codec


class _NotJsonError(Exception):
    pass


class _DeclarationError(TypeError):
    """An unsupported declaration of a class, as its message describes."""


class _RefusedError(ValueError):
    """Carries a reason through msgspec, which wraps it in an error with the path."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.reason = reason


class _NotFiniteError(_RefusedError):
    pass


def fault_in(error: msgspec.ValidationError) -> DecodeError:
    """Return the DecodeError for an error of msgspec, with its reason and path.

    msgspec's text is `reason - at `path``. A value that it may quote is left out.
    """
    message = str(error)
    found = _at.search(message)
    path = found["path"] if found else "$"
    cause = error.__cause__
    if isinstance(cause, _RefusedError):
        return DecodeError(f"{path}.{cause.field}" if cause.field else path, cause.reason)
    said = _said.match(message)
    reason = said[0] if said else "not what its type says"
    return DecodeError(path, f"a key: {reason}" if found and found["key"] else reason)


def _why_not_json(value: bytes, error: msgspec.DecodeError) -> str:
    if value.startswith(_BYTE_ORDER_MARK):
        return "begins with a byte order mark"
    said = _said.match(str(error))
    if said is None:
        return "not JSON"
    if said[0] == "Input data was truncated":  # msgspec says this of a lone surrogate, too
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return said[0]
        return "half of a UTF-16 pair (a lone surrogate) is escaped in a text"
    return said[0]


# The shape is the class that msgspec instantiates. msgspec cannot make Records itself, because
# their fields are descriptors, which it would call one by one. Instead it makes an instance of a
# dataclass with the same fields, whose `__class__` is then set to the Record class. Python allows
# this, because both are plain objects with a `__dict__`.


def _shape(record_type: type[faust.Record], inside: tuple[type, ...] = ()) -> Any:
    _check_class(record_type, inside)
    options = record_type._options
    factories = getattr(record_type, "__factories__", {})
    fields: list[tuple[str, Any, Any]] = []
    for name, annotation in _fields(record_type).items():
        shape = _shape_of_field(
            record_type, name, annotation, partial(_shape, inside=(*inside, record_type))
        )
        if name in factories:
            default = dataclasses.field(default_factory=factories[name])
        elif name in options.defaults:
            default = _default(options.defaults[name])
        else:
            default = dataclasses.field()
        fields.append((name, shape, default))
    # Faust's descriptors convert a field on its first read unless this set has it. An instance made
    # by Faust has a set of its own, so the one on the class is used by instances made here only.
    record_type.__evaluated_fields__ = frozenset(options.fields)  # type: ignore[assignment]
    return dataclasses.make_dataclass(
        record_type.__name__,
        fields,
        namespace={"__post_init__": _becomes(record_type)},
        init=False,
        repr=False,
        eq=False,
        kw_only=True,
    )


def _check_class(record_type: type[faust.Record], inside: tuple[type, ...]) -> None:
    name = record_type.__name__
    if record_type in inside:
        raise _DeclarationError(f"{name} contains itself, which is not supported")
    if record_type.__is_abstract__:
        raise _DeclarationError(f"{name} is abstract: name a class that is derived from it")
    if record_type.__init__ is not record_type._model_init:
        raise _DeclarationError(
            f"{name} has an __init__ of its own, which decoding does not call: write __post_init__"
        )
    for field in record_type._options.fields:
        descriptor: Any = getattr(record_type, field)
        if (descriptor.input_name, descriptor.output_name, descriptor.exclude) != (
            field,
            field,
            False,
        ):
            raise _DeclarationError(
                f"{name}.{field} has another name on the wire, which is not supported"
            )


def _fields(record_type: type[faust.Record]) -> dict[str, Any]:
    """Return the annotations of *record_type*'s fields, including typing.Annotated."""
    fields = dict(record_type._options.fields)
    hints: dict[str, Any] = getattr(record_type, "__hints__", {})
    return {name: hints.get(name, annotation) for name, annotation in fields.items()}


def _default(value: Any) -> Any:
    if isinstance(value, (list, dict, set, faust.Record)):
        return dataclasses.field(default_factory=partial(deepcopy, value))
    # A plain default would be an attribute of the dataclass, and lost when the instance's class is
    # changed.
    return dataclasses.field(default_factory=repeat(value).__next__)


def _becomes(record_type: type[faust.Record]) -> Callable[[Any], None]:
    """Return the function that turns an instance of the shape into a Record."""
    options, annotations = record_type._options, _fields(record_type)
    decimals = [
        name for name, of in annotations.items() if of is Decimal and name not in options.defaults
    ]
    # Only decimals are checked: JSON has no float that is not finite, and msgspec refuses one that
    # is out of range.
    held = {
        name: of
        for name, of in annotations.items()
        if name not in decimals and _may_hold_decimals(of)
    }
    others = _checks(held)
    after = _after(record_type)
    if not (decimals or others or after):

        def become_at_once(made: Any) -> None:
            made.__class__ = record_type

        return become_at_once

    def become(made: Any) -> None:
        for name in decimals:  # `_is_finite` inline, to save a call: most events have amounts
            value = getattr(made, name)
            if not (
                value.is_finite()
                and -DECIMAL_EXPONENT_MAX <= value.adjusted() <= DECIMAL_EXPONENT_MAX
            ):
                raise _NotFiniteError(name, _NOT_FINITE)
        for name, check in others:
            check(getattr(made, name))
        made.__class__ = record_type

    if after is None:
        return become

    def become_checked(made: Any) -> None:
        become(made)
        after(made)

    return become_checked


def _after(record_type: type[faust.Record]) -> Check | None:
    """Return a function for the checks that Faust makes at the end of `__init__`.

    These are the class's own `__post_init__`, then the limits of its fields. None when there are
    none.
    """
    post_init: Any = getattr(record_type, "__post_init__", None)
    descriptors: Any = record_type._options.descriptors if record_type._options.validation else {}
    if post_init is None and not descriptors:
        return None

    def after(made: Any) -> None:
        if post_init is not None:
            try:
                post_init(made)
            except (
                Exception
            ) as error:  # any exception of a user's code means that the event is refused
                reason = f"{record_type.__name__}.__post_init__ refuses it ({type(error).__name__})"
                raise _RefusedError("", reason) from None
        for name, descriptor in descriptors.items():
            if next(iter(descriptor.validate_all(getattr(made, name))), None) is not None:
                raise _RefusedError(
                    name, f"its {type(descriptor).__name__} refuses it{_limits_of(descriptor)}"
                )

    return after


def _limits_of(descriptor: Any) -> str:
    limits = (
        "min_value",
        "max_value",
        "min_length",
        "max_length",
        "max_digits",
        "max_decimal_places",
    )
    said = [
        f"{name}={limit}"
        for name in limits
        if (limit := getattr(descriptor, name, None)) is not None
    ]
    return f" ({', '.join(said)})" if said else ""


# Types.

_KINDS: dict[Any, Any] = {
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Collection: list,
    collections.abc.Iterable: list,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
}
_CONTAINERS = (list, dict, set, frozenset, tuple)
OfRecord = Callable[[type[faust.Record]], Any]


def _shape_of_field(
    record_type: type[faust.Record], name: str, annotation: Any, of_record: OfRecord
) -> Any:
    where = f"{record_type.__name__}.{name}"
    try:
        shape = _shape_of(annotation, of_record)
        msgspec.json.Decoder(shape)  # raises if msgspec does not support it
    except _NotJsonError as error:
        raise _DeclarationError(f"{where} is a {error}, which JSON cannot carry") from None
    except _DeclarationError:
        raise
    except (
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # a message of msgspec may have several lines
        raise _DeclarationError(f"{where}: {' '.join(str(error).split())}") from None
    return shape


# A case for each kind of type.
def _shape_of(annotation: Any, of_record: OfRecord) -> Any:  # noqa: PLR0911
    if _is_record(annotation):
        return of_record(annotation)
    if isinstance(annotation, typing.NewType):
        return _shape_of(annotation.__supertype__, of_record)
    if isinstance(annotation, TypeVar):
        raise TypeError(
            f"{annotation} stands for no type: derive from Base[Type], or name the type"
        )
    if annotation in (object, typing.LiteralString):
        return Any if annotation is object else str
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        meta = [each for each in arguments[1:] if isinstance(each, msgspec.Meta)]
        shape = _shape_of(arguments[0], of_record)
        return typing.Annotated[(shape, *meta)] if meta else shape
    if origin in (typing.Final, typing.Required, typing.NotRequired):
        return _shape_of(arguments[0], of_record)
    if origin is typing.Literal:
        return annotation
    if origin in (typing.Union, types.UnionType):
        return _union_of(annotation, arguments, of_record)
    return _container_of(annotation, origin, arguments, of_record)


def _container_of(
    annotation: Any, origin: Any, arguments: tuple[Any, ...], of_record: OfRecord
) -> Any:
    """Return the shape of a container, or of a type that msgspec knows itself."""
    kind = origin if origin is not None else annotation
    kind = _KINDS.get(kind, kind)
    if kind in _CONTAINERS:
        if not arguments:
            return kind
        inner = tuple(a if a is Ellipsis else _shape_of(a, of_record) for a in arguments)
        return kind[inner]
    if origin is not None:
        raise _NotJsonError(
            f"{_name(annotation)} (declare a list, dict, set, tuple, or a class of its own)"
        )
    if isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType):
        raise _NotJsonError(_name(annotation))
    return annotation


def _union_of(annotation: Any, arguments: tuple[Any, ...], of_record: OfRecord) -> Any:
    others = [each for each in arguments if each is not types.NoneType]
    if len(others) > 1 and any(map(_is_record, others)):
        raise TypeError(f"a Record can be optional, but not in the union {_name(annotation)}")
    # Built at run time, so `X | Y` is not possible.
    return typing.Union[tuple(_shape_of(argument, of_record) for argument in arguments)]  # noqa: UP007


def _name(annotation: Any) -> str:
    return str(
        annotation.__name__
        if isinstance(annotation, type) and not typing.get_args(annotation)
        else annotation
    )


def _is_record(annotation: Any) -> bool:
    return (
        isinstance(annotation, type)
        and typing.get_origin(annotation) is None
        and issubclass(annotation, faust.Record)
    )


# Writing: msgspec fills a struct from the attributes of the Record, which checks their types, and
# encodes it. Values such as UUIDs must be instances of their type: their text form is refused.


class _Is(type):
    """Stand-in for an enumeration: accepts its members, but not their values."""

    of: type[Enum]

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.of)


def _struct(record_type: type[faust.Record]) -> Any:
    annotations = _fields(record_type)
    shapes = {name: _written(_shape_of(of, _struct)) for name, of in annotations.items()}
    checks = _checks(annotations)

    def check(made: Any) -> None:
        for name, each in checks:
            each(getattr(made, name))

    namespace = {"__post_init__": check} if checks else {}
    struct = msgspec.defstruct(
        record_type.__name__,
        list(shapes.items()),
        namespace=namespace,
        kw_only=True,
        eq=False,
        gc=False,
    )
    _check_defaults(record_type, shapes)
    return struct


def _check_defaults(record_type: type[faust.Record], shapes: dict[str, Any]) -> None:
    for name, default in record_type._options.defaults.items():
        try:
            msgspec.convert(default, shapes[name], builtin_types=_AS_THEY_ARE, from_attributes=True)
        except msgspec.ValidationError as error:
            fault = fault_in(error)
            cure = " | None" if default is None else ""
            raise _DeclarationError(
                (
                    f"{record_type.__name__}.{name} has a default of another type than its own "
                    f"({fault.reason}): "
                )
                + (
                    f"declare it as {_name(record_type._options.fields[name])}{cure}"
                    if cure
                    else "write one of that type"
                )
            ) from None


def _written(shape: Any) -> Any:  # noqa: PLR0911  # a case for each kind of type
    """Return the shape to write from.

    A set becomes a list, since structs have no hash. Members of enumerations stay unchanged.
    """
    if isinstance(shape, type) and issubclass(shape, Enum):
        return _Is(shape.__name__, (), {"of": shape})
    origin, arguments = typing.get_origin(shape), typing.get_args(shape)
    if origin is typing.Annotated:
        return typing.Annotated[(_written(arguments[0]), *arguments[1:])]
    if origin in (typing.Union, types.UnionType):
        if len([each for each in arguments if each is not types.NoneType]) > 1:
            return shape  # msgspec allows no custom type such as `_Is` beside other types
        return typing.Union[tuple(map(_written, arguments))]  # noqa: UP007  # at run time
    if origin in (set, frozenset):
        return list[_written(arguments[0])]  # type: ignore[misc]  # at run time
    if origin in _CONTAINERS:
        return origin[tuple(a if a is Ellipsis else _written(a) for a in arguments)]
    return shape


# Numbers that are not finite: JSON has none, and msgspec writes null for them.

_NOT_FINITE = "a number that is not finite or out of range"


def _checks(annotations: dict[str, Any]) -> list[tuple[str, Check]]:
    found = ((name, _check_of(annotation, name)) for name, annotation in annotations.items())
    return [(name, check) for name, check in found if check is not None]


def _check_of(annotation: Any, field: str) -> Check | None:
    """Return a function that refuses numbers that are not finite in a field's value.

    None for a type that has no numbers.
    """
    if not _may_hold_numbers(annotation):
        return None

    def check(value: Any) -> None:
        if type(value) is Decimal or type(value) is float:
            if not _is_finite(value):
                raise _NotFiniteError(field, _NOT_FINITE)
        elif isinstance(value, collections.abc.Mapping):
            for key, each in value.items():
                check(key)
                check(each)
        elif isinstance(value, (list, tuple, set, frozenset)):
            for each in value:
                check(each)
        elif isinstance(value, (Decimal, float)) and not _is_finite(value):
            raise _NotFiniteError(field, _NOT_FINITE)

    return check


def _may_hold_numbers(annotation: Any) -> bool:
    if isinstance(annotation, typing.NewType):
        return _may_hold_numbers(annotation.__supertype__)
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    if arguments:
        return any(_may_hold_numbers(each) for each in arguments if each is not Ellipsis)
    if isinstance(annotation, type):
        plain = (str, bytes, bool, int, UUID, dt.date, dt.time, dt.timedelta, Enum, types.NoneType)
        return not issubclass(annotation, (*plain, faust.Record))
    return annotation is Any or typing.get_origin(annotation) is not None


def _may_hold_decimals(annotation: Any) -> bool:
    if isinstance(annotation, typing.NewType):
        return _may_hold_decimals(annotation.__supertype__)
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return issubclass(annotation, Decimal)
    return any(map(_may_hold_decimals, typing.get_args(annotation)))


def _is_finite(value: Decimal | float) -> bool:
    if isinstance(value, Decimal):
        return (
            value.is_finite() and -DECIMAL_EXPONENT_MAX <= value.adjusted() <= DECIMAL_EXPONENT_MAX
        )
    return math.isfinite(value)
