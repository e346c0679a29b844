"""CloudEvents in structured mode: a JSON envelope with an event's attributes and data.

Events are written in binary mode (attributes in headers, see `records`); both modes are read. The
`content-type` header tells which mode a record has. A record is one event: a batch of events, which
is not in CloudEvents' Kafka binding either, is refused.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol

import msgspec

from famulus.errors import DecodeError

PREFIX = b"application/cloudevents"
JSON = (PREFIX, PREFIX + b"+json")  # without a suffix, the format is JSON by default

Text = Annotated[str, msgspec.Meta(min_length=1)]
Extension = str | int | bool | None


class Carrier(Protocol):
    """Part of a record that this module reads."""

    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Envelope(msgspec.Struct, frozen=True):
    """JSON envelope of one event, without the attributes that are not used."""

    specversion: Literal["1.0"]
    id: Text
    source: Text
    type: Text
    correlationid: Extension = None
    causationid: Extension = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the attributes as headers of binary mode."""
        found = {
            "ce_id": self.id,
            "ce_source": self.source,
            "ce_type": self.type,
            "ce_correlationid": self.correlationid,
            "ce_causationid": self.causationid,
        }
        return [(name, str(value).encode()) for name, value in found.items() if value is not None]

    def payload(self) -> bytes:
        """Return the event's data, which is JSON.

        Raises DecodeError when there is no data, or both `data` and `data_base64`, or no valid
        base64.
        """
        if self.data_base64 is None:
            if isinstance(self.data, msgspec.UnsetType):
                raise DecodeError("$", "an event in structured mode without data")
            return bytes(self.data)
        if not isinstance(self.data, msgspec.UnsetType):
            raise DecodeError("$", "data and data_base64: there can be only one of them")
        try:
            return base64.b64decode(self.data_base64, validate=True)
        except (binascii.Error, ValueError):
            raise DecodeError("$.data_base64", "not base64") from None


_decoder = msgspec.json.Decoder(Envelope)


def is_structured(record: Carrier) -> bool:
    """Return whether the `content-type` header announces an envelope or a batch.

    Case does not matter.
    """
    for name, value in record.headers:  # noqa: SIM110  # `any` takes twice as long
        if name == "content-type" and _starts(value):
            return True
    return False


def envelope_in(record: Carrier) -> Envelope:
    """Return the envelope in a record that `is_structured`.

    Raises DecodeError when the value is not a valid envelope, and for a batch.
    """
    media_type = next(
        value.partition(b";")[0].strip().lower()
        for name, value in record.headers
        if name == "content-type" and _starts(value)
    )
    if media_type not in JSON:
        if media_type.startswith(PREFIX + b"-batch"):
            raise DecodeError(
                "$",
                "a batch of CloudEvents: a record is one event, send each as a record of its own",
            )
        raise DecodeError(
            "$", "CloudEvents in structured mode are read as application/cloudevents+json only"
        )
    if record.value is None:
        raise DecodeError("$", "no value (a tombstone), and an envelope was announced")
    try:
        return _decoder.decode(record.value)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `")
        # msgspec quotes a wrong literal, which is a value of the sender.
        reason = "another specversion than 1.0" if path.startswith("$.specversion") else reason
        raise DecodeError(path.rstrip("`") or "$", f"CloudEvents envelope: {reason}") from None
    except UnicodeDecodeError:
        raise DecodeError("$", "CloudEvents envelope: not UTF-8") from None
    except (msgspec.DecodeError, RecursionError):
        raise DecodeError("$", "CloudEvents envelope: not JSON") from None


def _starts(content_type: bytes) -> bool:
    return (content_type or b"")[: len(PREFIX)].lower() == PREFIX
