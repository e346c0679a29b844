"""Base class of events: a typed record of something that happened, with its topic and key.

    class OrderCreated(Event, namespace="orders.OrderCreated", topic="order-events", key="id"):
        id: UUID
        amount: Decimal

The namespace is the event's name on the wire: it is written out, so that moving a file changes no
byte. The key decides the partition and so the order: events of one key are handled one after the
other.
"""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial, reduce, wraps
from operator import or_
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID
from weakref import WeakValueDictionary

import faust
from faust.models.fields import BooleanField, BytesField, DecimalField, NumberField, StringField
from faust.models.typing import TypeExpression

_TEXT_OR_TRUTH = (StringField, BytesField, BooleanField)


def _datetime(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _date(text: str) -> date:
    return date.fromisoformat(text)


# How a field is made from JSON text. The order counts: a datetime is a date too.
FROM_TEXT: dict[Any, Callable[[Any], Any]] = {UUID: UUID, datetime: _datetime, date: _date}


def _enums_in(annotation: Any) -> Iterator[type[Enum]]:
    """Every enumeration that a field's annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        yield annotation
    for argument in get_args(annotation):
        yield from _enums_in(argument)


# Values that nobody can change, so that they may stand in many events.
_FIXED = (
    str,
    bytes,
    int,
    float,
    complex,
    Decimal,
    date,
    time,
    timedelta,
    UUID,
    Enum,
    types.NoneType,
)


def _hints_of(cls: type) -> dict[str, Any]:
    """Return the annotations of *cls*, with the metadata of `Annotated`.

    Raises TypeError, which names an unknown annotation.
    """
    try:
        return get_type_hints(cls, localns={cls.__name__: cls}, include_extras=True)
    except NameError as error:
        cure = "import it, or define it before the class, and not under TYPE_CHECKING only"
        raise TypeError(
            f"{_place(cls)} has a field of type {error.name!r}, which is not known there: {cure}"
        ) from None


def _place(cls: type) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"{cls.__name__} ({file or cls.__module__})"


def _resolve(cls: type) -> None:
    """Write the type arguments of generic bases, as in `Envelope[Money]`, into annotations."""
    given: dict[Any, Any] = {}
    for base in cls.__dict__.get("__orig_bases__", ()):
        parameters = getattr(get_origin(base), "__parameters__", ())
        given.update(zip(parameters, get_args(base), strict=False))
    if not given:
        return
    own = inspect.get_annotations(cls)
    inherited = {
        name: made
        for base in cls.__bases__
        for name, hint in (_hints_of(base).items() if issubclass(base, faust.Record) else ())
        if name not in own
        and get_origin(hint) is not ClassVar
        and (made := _with(hint, given)) is not hint
    }
    cls.__annotations__ = {**inherited, **own}


def _with(hint: Any, given: dict[Any, Any]) -> Any:
    """*hint* with types in the place of its type variables."""
    if isinstance(hint, TypeVar):
        return given.get(hint, hint)
    arguments, origin = get_args(hint), get_origin(hint)
    if not arguments or origin is Literal:
        return hint
    if origin is Annotated:
        made = _with(arguments[0], given)
        return hint if made is arguments[0] else Annotated[(made, *hint.__metadata__)]
    inner = [_with(each, given) for each in arguments]
    if all(one is other for one, other in zip(inner, arguments, strict=True)):
        return hint
    return reduce(or_, inner) if origin in (Union, types.UnionType) else origin[tuple(inner)]


def _plain(hint: Any) -> Any:
    """*hint* as Faust understands it, which is without `Annotated`."""
    return _plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def _take_factories(cls: type) -> dict[str, Callable[[], Any]]:
    """Remove and return the `default_factory` of every field of *cls* that has one."""
    factories: dict[str, Callable[[], Any]] = {}
    for name in inspect.get_annotations(cls):
        value = cls.__dict__.get(name)
        if not isinstance(value, dataclasses.Field):
            continue
        if value.default_factory is not dataclasses.MISSING:
            factories[name] = value.default_factory
            setattr(cls, name, value.default_factory())
        elif value.default is not dataclasses.MISSING:
            setattr(cls, name, value.default)
        else:
            delattr(cls, name)
    return factories


def _not_taken(hints: dict[str, Any]) -> str:
    """Return the first field whose type Faust does not support, as part of a name."""
    for name, hint in hints.items():
        try:
            TypeExpression(_plain(hint)).as_function()
        except Exception:  # Faust raises whatever happens to it
            return f".{name}"
    return ""


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class Part(faust.Record, abstract=True, coerce=True, coercions=FROM_TEXT):
    """A part of an event, such as one line of an order.

    A default that can be changed, such as a list, is copied for each new part;
    `dataclasses.field(default_factory=...)` works as well. The class keyword `sensitive` names
    fields that are never shown, such as `("email", "address")`.
    """

    __sensitive__: ClassVar[frozenset[str]] = frozenset()
    __hints__: ClassVar[dict[str, Any]] = {}
    __factories__: ClassVar[dict[str, Callable[[], Any]]] = {}

    def __init_subclass__(
        cls,
        *,
        coercions: dict[Any, Any] | None = None,
        sensitive: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        """Take the *options* of faust.Record; enumerations are made from their values."""
        _resolve(cls)
        hints = _hints_of(cls)
        if unknown := set(sensitive) - hints.keys():
            raise TypeError(
                f"{cls.__name__} has no field {', '.join(sorted(unknown))}, which it calls "
                "sensitive"
            )
        cls.__sensitive__ |= frozenset(sensitive)
        cls.__hints__ = hints
        own = inspect.get_annotations(cls)
        factories = {name: made for name, made in cls.__factories__.items() if name not in own}
        cls.__factories__ = {**factories, **_take_factories(cls)}
        enums: dict[Any, Any] = {
            enum: enum for annotation in hints.values() for enum in _enums_in(annotation)
        }
        try:
            super().__init_subclass__(coercions={**enums, **(coercions or {})}, **options)
        except (TypeError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise TypeError(f"{_place(cls)}{_not_taken(hints)} cannot be a model: {said}") from None
        for descriptor in () if cls.__is_abstract__ else cls._options.descriptors.values():
            if isinstance(descriptor, _TEXT_OR_TRUTH):
                # Faust makes "None" of None, and text of whatever else stands there.
                descriptor.coerce = False
            if isinstance(descriptor, NumberField) and not isinstance(descriptor, DecimalField):
                of_text: Any = partial(_number, type(descriptor).prepare_value, descriptor)
                descriptor.prepare_value = of_text  # type: ignore[method-assign]

    @classmethod
    def _BUILD_init(cls) -> Callable[[], None]:  # noqa: N802  # Faust's name
        """Make `__init__` as Faust does, with defaults of its own for each instance."""
        made: Any = super()._BUILD_init()
        options = cls._options
        changing: dict[str, Callable[[], Any]] = {
            name: partial(deepcopy, value)
            for name, value in options.defaults.items()
            if not isinstance(value, _FIXED)
        }
        cls.__factories__ = factories = {**changing, **cls.__factories__}
        if not factories:
            return made  # type: ignore[no-any-return]
        names = list(options.fields)
        order = [name for name in names if name not in options.optionalset]
        order += [name for name in names if name in options.optionalset]

        @wraps(made)
        def init(self: Any, *arguments: Any, **values: Any) -> None:
            values.update(zip(order, arguments, strict=False))
            for name, factory in factories.items():
                if values.get(name) is None:
                    values[name] = factory()
            made(self, *arguments[len(order) :], **values)

        return cast(Callable[[], None], init)


def _number(prepare: Any, descriptor: Any, value: Any, *, coerce: bool | None = None) -> Any:
    """Parse a number; other values stay, so that the error of writing them names the fault."""
    return prepare(descriptor, value, coerce=coerce) if isinstance(value, str) else value


class Event(Part, abstract=True):
    """Something that happened.

    Class keywords: `namespace` (its name on the wire), `topic`, `key` (one of its fields).

    A keyword that is missing or wrong raises TypeError at import, naming the class and the field.
    """

    __topic__: ClassVar[str]
    __key__: ClassVar[str]

    def __init_subclass__(
        cls,
        *,
        namespace: str = "",
        topic: str = "",
        key: str = "",
        abstract: bool = False,
        **options: Any,
    ) -> None:
        """Check the keywords and remember them. *options* are those of faust.Record."""
        super().__init_subclass__(namespace=namespace or None, abstract=abstract, **options)
        if abstract:
            return
        for keyword, value in {"namespace": namespace, "topic": topic, "key": key}.items():
            if not value:
                raise TypeError(
                    f"event {cls.__name__} names no {keyword}: class {cls.__name__}(Event, "
                    f"{keyword}=...)"
                )
        fields = cls._options.fields
        if key not in fields:
            raise TypeError(
                f"event {cls.__name__} has no field {key!r} for its key; its fields are "
                f"{', '.join(fields)}"
            )
        if key in cls.__sensitive__:
            raise TypeError(
                f"event {cls.__name__} calls its key {key!r} sensitive: a key is seen by all "
                "who operate Kafka"
            )
        cls.__topic__ = topic
        cls.__key__ = key
        other = _by_namespace.setdefault(namespace, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(
                f"event {_place(cls)} has the namespace {namespace!r}, which "
                f"{other.__module__}.{other.__qualname__} "
                "has already: give one of them another"
            )
        _by_namespace[namespace] = cls  # the same class, written or imported again


_by_namespace: WeakValueDictionary[str, type[Event]] = WeakValueDictionary()
