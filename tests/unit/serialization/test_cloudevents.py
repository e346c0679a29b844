"""Tests of CloudEvents against the CloudEvents SDK, in both directions and both modes."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from cloudevents.core.bindings.kafka import (
    KafkaMessage,
    from_binary_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from famulus.errors import DecodeError
from famulus.processing.handlers import EventTypes
from famulus.producer.event_headers import new_headers
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import attributes_of, cause_of, delivery_of, event_id_of
from famulus.state.dedupe import Dedupe
from models.stock import StockReserved

EVENT = StockReserved(order_id=UUID(int=1), product_id="part-1", quantity=2)
DATA = json.loads(codec_of(StockReserved).encode(EVENT))
TYPES = EventTypes("stock-events", [StockReserved])
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
ENVELOPE = {
    "specversion": "1.0",
    "id": "7",
    "source": "/shop",
    "type": "stock.StockReserved",
    "data": DATA,
}


def record(value: bytes | None, headers: Sequence[tuple[str, bytes]] = STRUCTURED) -> Any:
    """Return a record as it arrives from Kafka."""
    return SimpleNamespace(
        topic="stock-events",
        partition=1,
        offset=2,
        timestamp=3,
        key=b"part-1",
        value=value,
        headers=tuple(headers),
    )


def envelope(**changes: object) -> Any:
    """Return a record in structured mode; an attribute changed to None is absent."""
    content = {name: value for name, value in {**ENVELOPE, **changes}.items() if value is not None}
    return record(json.dumps(content).encode())


def from_sdk(message: KafkaMessage) -> Any:
    """Return a message of the SDK as a record."""
    return record(message.value, list(message.headers.items()))


def sdk_event(**attributes: Any) -> CloudEvent:
    """Return an event that the SDK made."""
    return CloudEvent(
        {
            "id": "7",
            "source": "/shop",
            "type": "stock.StockReserved",
            "specversion": "1.0",
            **attributes,
        },
        DATA,
    )


def test_the_sdk_reads_what_we_write() -> None:
    """All attributes, extensions and the data are compared."""
    headers = new_headers(EVENT, "famulus")
    read = from_binary_event(
        KafkaMessage(dict(headers), b"part-1", codec_of(StockReserved).encode(EVENT))
    )
    assert (read.get_source(), read.get_type(), read.get_specversion()) == (
        "famulus",
        "stock.StockReserved",
        "1.0",
    )
    assert read.get_id() == dict(headers)["ce_id"].decode() == read.get_extension("correlationid")
    assert read.get_subject() == "part-1"
    assert read.get_datacontenttype() == "application/json"
    written = read.get_time()
    assert written is not None
    assert abs(datetime.now(UTC) - written) < timedelta(seconds=5)
    assert read.get_data() == DATA


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
def test_what_the_sdk_writes_is_read(write: Any) -> None:
    """Both modes give the same event with the same id."""
    one = from_sdk(write(sdk_event(correlationid="c", causationid="d")))
    assert TYPES.decode(one) == EVENT
    assert event_id_of(one) == "/shop#7"
    assert Dedupe(1).keys([one]) == Dedupe(1).keys([from_sdk(to_binary_event(sdk_event()))])
    delivery = delivery_of(one, event_id_of(one), 1)
    assert (delivery.correlation_id, delivery.causation_id) == ("c", "d")
    assert dict(cause_of(one).story) == {"ce_correlationid": b"c", "ce_causationid": b"7"}


def test_data_may_be_base64() -> None:
    """The SDK writes bytes as base64."""
    data = codec_of(StockReserved).encode(EVENT)
    event = CloudEvent(
        {"id": "7", "source": "/shop", "type": "stock.StockReserved", "specversion": "1.0"}, data
    )
    assert TYPES.decode(from_sdk(to_structured_event(event))) == EVENT


@pytest.mark.parametrize(
    "media_type", [b"application/cloudevents", b"APPLICATION/CloudEvents+JSON ;charset=utf-8"]
)
def test_the_content_type_is_read_without_case_and_parameters(media_type: bytes) -> None:
    """The Kafka binding of CloudEvents requires that."""
    assert (
        TYPES.decode(record(json.dumps(ENVELOPE).encode(), [("content-type", media_type)])) == EVENT
    )


def test_attributes_may_stand_in_headers_as_well() -> None:
    """Structured mode allows copies of attributes in headers; the value is still an envelope."""
    headers = [
        *STRUCTURED,
        ("ce_id", b"7"),
        ("ce_source", b"/shop"),
        ("ce_type", b"stock.StockReserved"),
    ]
    both = record(json.dumps(ENVELOPE).encode(), headers)
    assert TYPES.decode(both) == EVENT
    assert event_id_of(both) == "/shop#7"


def test_a_type_that_nobody_handles_is_unknown() -> None:
    """Such an event is unknown even without data, as in binary mode."""
    assert TYPES.decode(envelope(type="else.Thing", data=None)) is None


@pytest.mark.parametrize(
    ("spoilt", "says"),
    [
        (record(b"[{}]", [("content-type", b"application/cloudevents-batch+json")]), "batch"),
        (record(b"\x02", [("content-type", b"application/cloudevents+avro")]), r"\+json only"),
        (record(None), "tombstone"),
        (record(b"{"), "not JSON"),
        (record(b'"\xff"'), "envelope"),
        (record(b"[" * 100_000), "envelope"),
        (envelope(id=None), "`id`"),
        (envelope(source=""), r"^\$.source: .*length"),
        (envelope(specversion="0.3-secret"), r"^\$.specversion: [^']*$"),
        (envelope(data=None), "without data"),
        (envelope(data_base64="e30="), "only one"),
        (envelope(data=None, data_base64="?"), r"^\$.data_base64"),
        (envelope(data={**DATA, "quantity": "two"}), r"^\$.data.quantity"),
    ],
)
def test_what_is_no_such_event_is_poison_and_says_why(spoilt: Any, says: str) -> None:
    """The error has the path of the fault and no part of the payload."""
    with pytest.raises(DecodeError, match=says):
        TYPES.decode(spoilt)


def test_an_envelope_that_cannot_be_read_has_its_place_as_its_id() -> None:
    """The id allows a dead letter of it."""
    assert event_id_of(record(b"{")) == "stock-events/1/2"
    assert delivery_of(record(b"{"), "id", 1).correlation_id == "id"


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.text(), st.text()).map(lambda found: json.dumps(found).encode())
)
def test_no_value_makes_the_envelope_raise_anything_else(value: bytes) -> None:
    """Ids and attributes never raise; decoding raises only the error that makes a dead letter."""
    one = record(value)
    event_id_of(one)
    attributes_of(one)
    with pytest.raises(DecodeError):
        TYPES.decode(one)


@given(st.text(min_size=1))
def test_any_id_is_an_identity(identifier: str) -> None:
    """Any text that JSON allows can be looked up."""
    one = envelope(id=identifier)
    assert len(Dedupe(1).keys([one])) == 1
    attributes_of(one)


def test_records_of_a_plain_faust_app_are_read_as_ever() -> None:
    """The metadata of Faust is in the value, and the headers are foreign or absent."""
    value = json.dumps(
        {**DATA, "__faust": {"ns": "stock.StockReserved"}}, separators=(",", ":")
    ).encode()
    for headers in ([], [("trace", b"1"), ("content-type", b"application/json")]):
        assert TYPES.decode(record(value, headers)) == EVENT
        assert event_id_of(record(value, headers)) == "stock-events/1/2"
