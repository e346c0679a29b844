"""Properties of the codec: a decoded record equals the one that Faust decodes, for random classes.

No bytes make the codec raise anything but DecodeError, or show a part of the payload.
"""

import copy
import json
import pickle
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from famulus import Part
from famulus.errors import DecodeError
from famulus.serialization.json_codec import Codec, codec_of
from models.orders import OrderCreated


class Size(Enum):
    """An enumeration of texts."""

    S = "s"
    L = "l"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
decimals = st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=2
)
zones = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8))]
)
# The zones are drawn separately.
times = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=zones)  # noqa: DTZ001

# annotation -> values that such a field may hold
leaves: dict[Any, st.SearchStrategy[Any]] = {
    str: texts,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    Decimal: decimals,
    UUID: st.uuids(),
    datetime: times,
    date: st.dates(date(1970, 1, 1), date(2200, 1, 1)),
    Size: st.sampled_from(Size),
    Any: st.none() | texts | st.lists(st.booleans(), max_size=2),
}
counter = iter(range(10**9))


@st.composite
def record_types(draw: st.DrawFn, depth: int = 2) -> type[Part]:
    """Draw a record class of up to six fields: leaves, containers, and records down to *depth*."""
    annotations: dict[str, Any] = {}
    for number in range(draw(st.integers(1, 6))):
        nested = depth > 0 and draw(st.integers(0, 3)) == 0
        inner = draw(record_types(depth - 1)) if nested else draw(st.sampled_from(list(leaves)))
        shape = draw(st.sampled_from(["plain", "list", "dict", "optional"]))
        annotations[f"field_{number}"] = {
            "plain": inner,
            "list": list[inner],  # type: ignore[valid-type]  # made at run time
            "dict": dict[str, inner],  # type: ignore[valid-type]
            "optional": inner | None if inner is not Any else Any,
        }[shape]
    name = f"Random{next(counter)}"
    return type(
        name,
        (Part,),
        {"__annotations__": annotations, "__module__": __name__},
        namespace=f"test.{name}",
    )


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for values of a field of *annotation*."""
    if annotation in leaves:
        return leaves[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return records_of(annotation)
    arguments = annotation.__args__
    if getattr(annotation, "__origin__", None) is list:
        return st.lists(values_of(arguments[0]), max_size=3)
    if getattr(annotation, "__origin__", None) is dict:
        return st.dictionaries(texts, values_of(arguments[1]), max_size=3)
    return st.none() | values_of(arguments[0])


def records_of(record_type: type[Part]) -> st.SearchStrategy[Part]:
    """Return a strategy for instances of a record class."""
    fields = {
        name: values_of(annotation) for name, annotation in record_type._options.fields.items()
    }
    return st.fixed_dictionaries(fields).map(lambda values: record_type(**values))


@settings(max_examples=40)
@given(data=st.data())
def test_what_is_decoded_equals_what_faust_decodes_and_behaves_the_same(
    data: st.DataObject,
) -> None:
    """Equality, fields, asdict, derive, representation and copies are compared."""
    record_type = data.draw(record_types())
    codec = Codec(record_type)
    value = codec.encode(data.draw(records_of(record_type)))
    ours, theirs = codec.decode(value), record_type.from_data(json.loads(value))
    for name in record_type._options.fields:
        assert getattr(ours, name) == getattr(theirs, name)
        assert type(getattr(ours, name)) is type(getattr(theirs, name))
    assert ours == theirs
    assert ours.asdict() == theirs.asdict()
    assert ours.to_representation() == theirs.to_representation()
    assert ours.derive() == theirs
    assert copy.copy(ours) == copy.deepcopy(ours) == theirs


@settings(max_examples=40)
@given(data=st.data())
def test_there_and_back_again(data: st.DataObject) -> None:
    record_type = data.draw(record_types())
    codec = Codec(record_type)
    record = data.draw(records_of(record_type))
    assert codec.decode(codec.encode(record)) == record


def test_a_decoded_event_can_be_pickled() -> None:
    """An event made by Faust can be pickled too."""
    codec = codec_of(OrderCreated)
    event = codec.decode(
        b'{"order_id":"00000000-0000-0000-0000-000000000001","customer_id":"00000000-0000-0000-0000-000000000002",'
        b'"total_amount":"1.00","created_at":"2026-01-01T00:00:00Z","items":[]}'
    )
    assert pickle.loads(pickle.dumps(event)) == event


CANARY = "canary-4711"
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(CANARY) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.just(CANARY) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = list(OrderCreated._options.fields)


@settings(max_examples=500)
@given(
    value=st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(FIELDS), odd).map(json.dumps).map(str.encode)
)
def test_no_bytes_raise_anything_but_a_decode_error(value: bytes) -> None:
    """The error is written to a dead letter, and shows no value."""
    try:
        codec_of(OrderCreated).decode(value)
    except DecodeError as error:
        assert CANARY not in str(error)  # most, but not all, raise
