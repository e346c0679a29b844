"""Tests of an event format other than JSON, chosen by the content type of the record."""

from types import SimpleNamespace
from typing import Any, TypeVar

import faust
import msgspec
import pytest

from famulus import Event
from famulus.errors import DecodeError
from famulus.processing.handlers import EventTypes
from famulus.serialization.json_codec import codec_of
from famulus.serialization.serde import EventCodec

R = TypeVar("R", bound=faust.Record)


class Paid(Event, namespace="test.Paid", topic="t", key="key"):
    """An event with two fields."""

    key: str
    cents: int


EVENT = Paid(key="k", cents=5)


class Packed:
    """MessagePack with JSON inside, so that the checks of JSON apply."""

    content_types: tuple[str, ...] = ("application/msgpack", "application/x-msgpack")

    def codec_of(self, record_type: type[R]) -> EventCodec[R]:
        """Return the codec of a class."""
        json = codec_of(record_type)

        class Codec:
            """Codec that decodes MessagePack by the codec of JSON."""

            def __init__(self) -> None:
                self.record_type = record_type

            def parse(self, value: bytes | None) -> R:
                """Decode a valid value."""
                return json.decode(msgspec.json.encode(msgspec.msgpack.decode(value or b"")))

            def decode(self, value: bytes | None) -> R:
                """Decode a value."""
                try:
                    return self.parse(value)
                except msgspec.DecodeError:
                    raise DecodeError("$", "not MessagePack") from None

            def encode(self, record: R) -> bytes:
                """Encode an event."""
                return msgspec.msgpack.encode(msgspec.json.decode(json.encode(record)))

        return Codec()


TYPES = EventTypes("t", [Paid], formats=[Packed()])


def record(value: bytes | None, content_type: bytes | None, *, named: bool = True) -> Any:
    """Make a record of this content type."""
    headers = [("ce_type", b"test.Paid")] if named else []
    headers += [("content-type", content_type)] if content_type is not None else []
    return SimpleNamespace(value=value, headers=headers)


@pytest.mark.parametrize(
    "content_type",
    [b"application/msgpack", b"Application/MsgPack; charset=x", b"application/x-msgpack"],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_record_is_decoded_by_the_format_of_its_content_type(
    content_type: bytes, *, named: bool
) -> None:
    value = Packed().codec_of(Paid).encode(EVENT)
    assert TYPES.decode(record(value, content_type, named=named)) == EVENT


@pytest.mark.parametrize("content_type", [None, b"", b"application/json", b"text/plain", b"\xff"])
def test_every_other_record_is_json(content_type: bytes | None) -> None:
    value = codec_of(Paid).encode(EVENT)
    assert TYPES.decode(record(value, content_type)) == EVENT
    assert TYPES.decode(SimpleNamespace(value=value, headers=[])) == EVENT


def test_poison_is_named_by_the_format_that_was_announced() -> None:
    with pytest.raises(DecodeError, match="not MessagePack"):
        TYPES.decode(record(b"\xc1", b"application/msgpack"))
    with pytest.raises(DecodeError):
        TYPES.decode(record(b"\xc1", None))


def test_a_null_content_type_is_json() -> None:
    null = SimpleNamespace(value=codec_of(Paid).encode(EVENT), headers=[("content-type", None)])
    assert TYPES.decode(null) == EVENT
