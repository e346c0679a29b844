"""Formats of events on the wire: one `Serde` for each content type.

A record's header `content-type` (KIP-82 headers; `datacontenttype` of CloudEvents) chooses the
format that decodes it. JSON is that of records without such a header, and of every content type
without a format of its own. The rows of tables have a format of their own, see `state.row_codec`:
another wire format changes no changelog.

A further format is a class with the shape of `Serde`, passed to `EventTypes`.
"""

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import faust

from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import Headers

R = TypeVar("R", bound=faust.Record)
CONTENT_TYPE = "content-type"


class EventCodec(Protocol[R]):
    """Decodes and encodes the events of one class."""

    @property
    def record_type(self) -> type[R]:
        """The class."""

    def parse(self, value: bytes | None) -> R:
        """Decode a valid value quickly; raises any error for another."""

    def decode(self, value: bytes | None) -> R:
        """Decode a value; raises DecodeError with the path of a fault, without quoting values."""

    def encode(self, record: R) -> bytes:
        """Encode an event that `decode` accepts; raises UnwritableError for another."""


class Serde(Protocol):
    """A format of events, named by its content types in lower case, such as `application/json`."""

    content_types: tuple[str, ...]

    def codec_of(self, record_type: type[R]) -> EventCodec[R]:
        """Return the codec of a class; raises TypeError for one that the format cannot have."""


class JsonSerde:
    """The format of this engine: JSON, checked against the fields of the class."""

    content_types: tuple[str, ...] = ("application/json",)

    def codec_of(self, record_type: type[R]) -> EventCodec[R]:
        """Return the codec of a class, which is built once."""
        codec: Any = codec_of(record_type)
        return codec  # type: ignore[no-any-return]  # its `parse` is an attribute, not a method


JSON: Serde = JsonSerde()


class Serdes:
    """The formats of one topic: JSON and *others*."""

    def __init__(self, others: Iterable[Serde] = ()) -> None:
        self._by_type: dict[str, Serde] = {
            content_type: serde for serde in others for content_type in serde.content_types
        }

    @property
    def has_others(self) -> bool:
        """True if there is another format than JSON."""
        return bool(self._by_type)

    def of(self, headers: Headers) -> Serde:
        """Return the format that *headers* name; JSON unless they name another one."""
        for name, value in headers:
            if name == CONTENT_TYPE:
                media_type = (value or b"").partition(b";")[0].strip().lower()
                return self._by_type.get(media_type.decode("latin-1"), JSON)
        return JSON
