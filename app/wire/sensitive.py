"""What of an event is shown to nobody: fields that its class calls `sensitive` are stars wherever values are shown.

    class CustomerMoved(Event, namespace="...", topic="...", key="customer_id", sensitive=("address",))

They are hidden by their place in the JSON, so that also what does not decode hides them; of what is no JSON at all
nothing is shown then. Handlers, tables and dead letters have them as they are: this is about people's eyes.
"""

import typing
from collections.abc import Iterable
from typing import Any

import faust
import msgspec

STARS = "***"
Places = dict[str, Any]  # by field: True where all of it is hidden, else the places inside
ENVELOPE = "data", "data_base64"  # where an event is in a CloudEvent in structured mode


_places: dict[type[faust.Record], Places] = {}


def places_in(record_type: type[faust.Record]) -> Places:
    """Where in its JSON the sensitive fields of *record_type* are, nothing if it has none. Looked up once."""
    known = _places.get(record_type)
    if known is not None:
        return known
    found: Places = dict.fromkeys(getattr(record_type, "__sensitive__", ()), True)
    for name, annotation in record_type._options.fields.items():
        inside: Places = {}
        for part in _records_in(annotation):
            inside |= places_in(part)
        if inside and name not in found:
            found[name] = inside
    _places[record_type] = found
    return found


def _records_in(annotation: Any) -> list[type[faust.Record]]:
    if isinstance(annotation, type) and issubclass(annotation, faust.Record):
        return [annotation]
    return [record for argument in typing.get_args(annotation) for record in _records_in(argument)]


def places_of(record_types: Iterable[type[faust.Record]]) -> Places:
    """The same for the events of a topic: what is sensitive in one of its types is hidden in all of them."""
    found: Places = {}
    for record_type in record_types:
        found = _joined(found, places_in(record_type))
    return found


def _joined(one: Places, other: Places) -> Places:
    joined = {**one, **other}
    for name in one.keys() & other.keys():
        both = one[name], other[name]
        joined[name] = True if True in both else _joined(*both)
    return joined


def hidden(value: bytes | None, places: Places) -> bytes | None:
    """*value* with stars for what is at *places*; itself where there are none."""
    if value is None or not places:
        return value
    try:
        content = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return STARS.encode()
    return msgspec.json.encode(_hidden(content, {**places, ENVELOPE[0]: places, ENVELOPE[1]: True}))


def _hidden(content: Any, places: Places) -> Any:
    """Lists, and the values of dicts whose keys are no fields, are looked into: Records may be in them."""
    if isinstance(content, list):
        return [_hidden(each, places) for each in content]
    if not isinstance(content, dict):
        return content
    if not places.keys() & content.keys():
        return {name: _hidden(each, places) for name, each in content.items()}
    return {
        name: each if name not in places else STARS if places[name] is True else _hidden(each, places[name])
        for name, each in content.items()
    }
