"""What of an event is shown to nobody: fields that its class calls `sensitive` are stars wherever values are shown.

    class CustomerMoved(Event, namespace="...", topic="...", key="customer_id", sensitive=("address",))

They are hidden by their place in the JSON, so that also what does not decode hides them. A sender
may misspell a name, or put an object where a text belongs: so of a class that has something to
hide, only its own fields are shown, in the shapes that they were declared in. Names that it does
not have are stars as well, whatever their case, and so is all that stands where such a record was
expected and none is. Of what is no JSON, or nested too deeply, nothing is shown. Handlers, tables
and dead letters have them as they are: this is about people's eyes.
"""

import typing
from collections.abc import Iterable, Mapping
from typing import Any

import faust
import msgspec

STARS = "***"
# In a CloudEvent in structured mode the event is in `data`, and these are about it.
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
METADATA = "__faust"  # what Faust writes into a value


class Places(dict[str, Any]):
    """Where something is hidden in a record's JSON, by field: True where it is all of it, else the Places inside.

    *open* has the record's other fields, and whether there may be objects or lists in them.
    *is_mapping*: these are the Places of each value of an object whose names are no fields.
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
        """The names of what is hidden here, or further inside."""
        inside = (places.names() for places in self.values() if isinstance(places, Places))
        return {name.lower() for name, place in self.items() if place is True}.union(*inside)


_places: dict[type[faust.Record], Places] = {}


def places_in(record_type: type[faust.Record]) -> Places:
    """Where in its JSON the sensitive fields of *record_type* are, nothing if it has none.

    Looked up once.
    """
    known = _places.get(record_type)
    if known is not None:
        return known
    found = Places(dict.fromkeys(getattr(record_type, "__sensitive__", ()), True))
    _places[record_type] = found  # a class may hold itself
    for name, annotation in record_type._options.fields.items():
        if name in found:
            continue
        if inside := places_at(annotation):
            found[name] = inside
        else:
            found.open[name] = not _is_plain(annotation)
    return found


def places_at(annotation: Any) -> Places:  # Any: what stands behind a field's colon
    """The same for what has that type: a record, or what it is in."""
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
    """Whether JSON has neither objects nor lists for it."""
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
    """The same for the events of a topic: what is sensitive in one of its types is hidden in all of them."""
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
    """*value* with stars for what is at *places*; itself where there are none."""
    if value is None or not places:
        return value
    try:
        return msgspec.json.encode(
            _hidden(msgspec.json.decode(value), places, places.names(), is_top=True)
        )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, OverflowError):
        # What was meant to be an object stays JSON, since it may become a part of some.
        return msgspec.json.encode(STARS) if value[:1] in (b"[", b"{") else STARS.encode()


def _hidden(content: Any, places: Places, names: set[str], *, is_top: bool = False) -> Any:
    """What of *content* is shown where such a record, a list of them, or a mapping to them is expected."""
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
    """What of an attribute of an envelope is shown."""
    if name in OPAQUE:
        return _hidden(content, places, names)
    return content if name in ATTRIBUTES and not isinstance(content, (dict, list)) else STARS


def _field(name: str, content: Any, places: Places, names: set[str], *, is_top: bool) -> Any:
    """What of a record's field is shown."""
    is_nested = isinstance(content, (dict, list))
    if (place := places.get(name)) is not None:
        return STARS if place is True else _hidden(content, place, names)
    if (may_nest := places.open.get(name)) is not None:
        return content if not is_nested else _without(content, names) if may_nest else STARS
    if is_top and is_nested and name == METADATA:
        return _without(content, names)
    return _hidden(content, places, names) if is_top and is_nested and name in OPAQUE else STARS


def _without(content: Any, names: set[str]) -> Any:
    """*content*, in which nothing is expected to be hidden, without what has one of those *names* all the same."""
    if isinstance(content, list):
        return [_without(each, names) for each in content]
    if isinstance(content, dict):
        return {
            name: STARS if name.lower() in names else _without(each, names)
            for name, each in content.items()
        }
    return content
