"""Redact fields declared `sensitive` where values of events are displayed.

    class CustomerMoved(
        Event, namespace="...", topic="...", key="customer_id", sensitive=("address",)
    ): ...

Stars replace the value of such a field. Fields are located by their path in the JSON, so that
events that cannot be decoded are redacted as well. A sender may misspell a name, or write an object
where a text is expected. Of a class with sensitive fields, therefore, only its declared fields are
shown, and only in their declared shapes. Names that differ from the declared ones, even in case
alone, are redacted, as is any value in the place of such a record that is no record. Values that
are not JSON, or nested too deeply, are redacted entirely. Handlers, tables and dead letters have
the values unchanged: only the display is redacted.
"""

import typing
from collections.abc import Iterable, Mapping
from typing import Any

import faust
import msgspec

STARS = "***"
# Attributes of a CloudEvent in structured mode that are shown; the event itself is in `data`.
ATTRIBUTES = frozenset(
    {
        "specversion",
        "id",
        "source",
        "type",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "partitionkey",
        "sequence",
        "correlationid",
        "causationid",
        "traceparent",
        "tracestate",
    }
)
OPAQUE = "data", "payload", "body"  # names under which an envelope has an event
METADATA = "__faust"  # metadata that Faust writes into a value


class Places(dict[str, Any]):
    """Paths of the values to redact in a record's JSON, by field.

    The value is True where the whole field is redacted, else the Places inside it. *open* has the
    record's other fields, and whether a field may hold objects or lists. With *is_mapping*, these
    are the Places of each value of an object whose names are not fields.
    """

    def __init__(
        self,
        hidden: Mapping[str, Any] = {},
        fields: Mapping[str, bool] = {},
        *,
        is_mapping: bool = False,
    ) -> None:
        super().__init__(hidden)
        self.open = dict(fields)
        self.is_mapping = is_mapping

    def names(self) -> set[str]:
        """Return the names redacted here or further inside, in lower case."""
        inside = (places.names() for places in self.values() if isinstance(places, Places))
        return {name.lower() for name, place in self.items() if place is True}.union(*inside)


_places: dict[type[faust.Record], Places] = {}


def places_in(record_type: type[faust.Record]) -> Places:
    """Return the places of the sensitive fields of *record_type*.

    Empty if there are none. The result is cached.
    """
    known = _places.get(record_type)
    if known is not None:
        return known
    found = Places(dict.fromkeys(getattr(record_type, "__sensitive__", ()), True))
    _places[record_type] = found  # cached before its fields, because a class may contain itself
    for name, annotation in record_type._options.fields.items():
        if name in found:
            continue
        if inside := places_at(annotation):
            found[name] = inside
        else:
            found.open[name] = not _is_plain(annotation)
    return found


def places_at(annotation: Any) -> Places:  # Any: the annotation of a field
    """Return the places for values of type *annotation*.

    The type is a record, or a container or union of such.
    """
    if isinstance(annotation, type) and issubclass(annotation, faust.Record):
        return places_in(annotation)
    if isinstance(annotation, typing.NewType):
        return places_at(annotation.__supertype__)
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        inside = places_at(arguments[-1]) if arguments else Places()
        return Places(inside, inside.open, is_mapping=True) if inside else Places()
    parts = [places_at(argument) for argument in arguments]
    if isinstance(origin, type) and issubclass(origin, faust.Record):  # a generic one
        parts.append(places_in(origin))
    return _joined([part for part in parts if part or part.open]) if any(parts) else Places()


def _is_plain(annotation: Any) -> bool:
    """Return whether values of this type are never objects or lists in JSON."""
    if arguments := typing.get_args(annotation):
        if typing.get_origin(annotation) is typing.Literal:
            return True
        origin = typing.get_origin(annotation)
        is_collection = isinstance(origin, type) and issubclass(origin, Iterable)
        return not is_collection and all(_is_plain(argument) for argument in arguments)
    if not isinstance(annotation, type):
        return isinstance(annotation, typing.NewType) and _is_plain(annotation.__supertype__)
    return annotation is not object and (
        issubclass(annotation, str | bytes) or not issubclass(annotation, (Iterable, faust.Record))
    )


def sensitive_paths(record_types: Iterable[type[faust.Record]]) -> Places:
    """Return the places to redact in the events of a topic.

    A field that is sensitive in one of *record_types* is redacted in all of them.
    """
    found = [places_in(record_type) for record_type in record_types]
    return _joined(found) if any(found) else Places()


def _joined(every: list[Places]) -> Places:
    if len(every) == 1:
        return every[0]
    joined = Places(is_mapping=bool(every) and all(places.is_mapping for places in every))
    for places in every:
        for name, place in places.items():
            there = joined.get(name)
            joined[name] = (
                place
                if there is None
                else True
                if True in (there, place)
                else _joined([there, place])
            )
        for name, is_nested in places.open.items():
            joined.open[name] = joined.open.get(name, False) or is_nested
    joined.open = {name: is_nested for name, is_nested in joined.open.items() if name not in joined}
    return joined


def hidden(value: bytes | None, places: Places) -> bytes | None:
    """Return *value* with stars at *places*, or unchanged if there are none.

    Values that are not JSON, or nested too deeply, become stars entirely.
    """
    if value is None or not places:
        return value
    try:
        return msgspec.json.encode(
            _hidden(msgspec.json.decode(value), places, places.names(), is_top=True)
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        # Values that look like JSON become a JSON string, since they may be embedded in JSON.
        return msgspec.json.encode(STARS) if value[:1] in (b"[", b"{") else STARS.encode()


def _hidden(content: Any, places: Places, names: set[str], *, is_top: bool = False) -> Any:
    """Return *content* redacted for the place of a record, a list or a mapping of records."""
    if content is None:
        return None
    if isinstance(content, list):
        return [_hidden(each, places, names, is_top=is_top) for each in content]
    if not isinstance(content, dict):
        return STARS
    if places.is_mapping:
        inside = Places(places, places.open)
        return {name: _hidden(each, inside, names) for name, each in content.items()}
    if is_top and "specversion" in content and "specversion" not in places.open:
        return {name: _attribute(name, each, places, names) for name, each in content.items()}
    return {
        name: _field(name, each, places, names, is_top=is_top) for name, each in content.items()
    }


def _attribute(name: str, content: Any, places: Places, names: set[str]) -> Any:
    """Return an attribute of a CloudEvents envelope, redacted."""
    if name in OPAQUE:
        return _hidden(content, places, names)
    return content if name in ATTRIBUTES and not isinstance(content, (dict, list)) else STARS


def _field(name: str, content: Any, places: Places, names: set[str], *, is_top: bool) -> Any:
    """Return the field *name* of a record, redacted."""
    is_nested = isinstance(content, (dict, list))
    if (place := places.get(name)) is not None:
        return STARS if place is True else _hidden(content, place, names)
    if (may_nest := places.open.get(name)) is not None:
        return content if not is_nested else _without(content, names) if may_nest else STARS
    if is_top and is_nested and name == METADATA:
        return _without(content, names)
    return _hidden(content, places, names) if is_top and is_nested and name in OPAQUE else STARS


def _without(content: Any, names: set[str]) -> Any:
    """Redact every field in *content* with one of *names*, however deep.

    *content* is a value in which no sensitive field is declared.
    """
    if isinstance(content, list):
        return [_without(each, names) for each in content]
    if isinstance(content, dict):
        return {
            name: STARS if name.lower() in names else _without(each, names)
            for name, each in content.items()
        }
    return content
