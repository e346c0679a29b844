"""Tests of decoding JSON: accepted values, refused values and the error of each."""

import json
import sys
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import faust
import pytest

from famulus import Part
from famulus.errors import DecodeError
from famulus.serialization.json_codec import Codec, codec_of


class Colour(Enum):
    """An enumeration of texts."""

    RED = "red"


class Line(Part, namespace="test.codec.Line"):
    """A nested part."""

    product_id: str
    price: Decimal


class Everything(Part, namespace="test.codec.Everything"):
    """A part with one field of every kind."""

    id: UUID
    amount: Decimal
    at: datetime
    day: date
    colour: Colour
    kind: Literal["a", "b"]
    lines: list[Line]
    by_name: dict[str, Line]
    line: Line
    maybe: Line | None = None
    note: str | None = None
    number: int = 7
    tags: list[str] = []  # Faust copies the default of a Record


VALUE: dict[str, Any] = {
    "id": "00000000-0000-0000-0000-000000000001",
    "amount": "12.10",
    "at": "2026-01-02T03:04:05+01:00",
    "day": "2026-01-02",
    "colour": "red",
    "kind": "a",
    "lines": [{"product_id": "p", "price": "0.10"}],
    "by_name": {"x": {"product_id": "q", "price": "1"}},
    "line": {"product_id": "r", "price": "2"},
}


def encoded(**changes: object) -> bytes:
    """Return VALUE as JSON with some fields changed; a field set to `...` is left out."""
    return json.dumps({k: v for k, v in {**VALUE, **changes}.items() if v is not ...}).encode()


def test_every_kind_of_field_is_what_its_annotation_says() -> None:
    """Values inside lists and dicts have their types too."""
    event = codec_of(Everything).decode(encoded(maybe={"product_id": "m", "price": "3"}))
    assert (event.id, event.amount, event.colour, event.kind) == (
        UUID(int=1),
        Decimal("12.10"),
        Colour.RED,
        "a",
    )
    assert (event.at.isoformat(), event.day) == (VALUE["at"], date(2026, 1, 2))
    assert [
        type(line) for line in (event.lines[0], event.by_name["x"], event.line, event.maybe)
    ] == [Line] * 4
    assert event.lines[0].price == Decimal("0.10")


def test_defaults_fill_what_is_missing() -> None:
    event = codec_of(Everything).decode(encoded())
    assert (event.maybe, event.note, event.number, event.tags) == (None, None, 7, [])


def test_a_mutable_default_is_not_shared() -> None:
    """A change of one event's list does not show in the next event."""
    codec = codec_of(Everything)
    codec.decode(encoded()).tags.append("x")
    assert codec.decode(encoded()).tags == []


def test_unknown_fields_are_ignored_also_the_metadata_of_faust() -> None:
    """A newer sender may add fields, but can never choose a class."""
    event = codec_of(Everything).decode(encoded(more=1, __faust={"ns": "test.codec.Line"}))
    assert type(event) is Everything
    assert "more" not in event.asdict()


def test_what_is_decoded_encodes_to_the_same() -> None:
    codec = codec_of(Everything)
    event = codec.decode(encoded(maybe=VALUE["line"], note="n"))
    assert codec.decode(codec.encode(event)) == event


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        (None, "$", "no value"),
        (b"", "$", "truncated"),
        (b"{", "$", "truncated"),
        (b"[]", "$", "Expected `object`, got `array`"),
        (b"\xff\xfe", "$", "malformed"),
        (encoded().replace(b'"p"', b'"\xff"'), "$", "UTF-8"),
        (encoded(id=...), "$", "missing required field `id`"),
        (encoded(id="canary"), "$.id", "Invalid UUID"),
        (encoded(amount="canary"), "$.amount", "Invalid decimal"),
        (encoded(amount=True), "$.amount", "Expected `decimal`, got `bool`"),
        (encoded(amount="NaN"), "$.amount", "not finite"),
        (encoded(amount="1e1000000"), "$.amount", "out of range"),
        (encoded(at="canary"), "$.at", "Invalid RFC3339"),
        (encoded(colour="canary"), "$.colour", "Invalid enum value"),
        (encoded(kind="canary"), "$.kind", "Invalid enum value"),
        (encoded(number="canary"), "$.number", "Expected `int`, got `str`"),
        (encoded(line=None), "$.line", "Expected `object`, got `null`"),
        (
            encoded(lines=[VALUE["line"], {"product_id": "canary"}]),
            "$.lines[1]",
            "missing required field `price`",
        ),
        (
            encoded(by_name={"canary": {"product_id": 1, "price": "1"}}),
            "$.by_name[...].product_id",
            "Expected `str`",
        ),
        # Python 3.14 limits the bytes of the stack, not its depth, and reads this to its end.
        (
            b'{"x":' + b"[" * 100_000,
            "$",
            "nested too deeply" if sys.version_info < (3, 14) else "truncated",
        ),
    ],
)
def test_a_fault_is_named_by_its_path_and_never_by_its_value(
    value: bytes | None, path: str, says: str
) -> None:
    """Error texts are logged and written into headers; payloads are private."""
    with pytest.raises(DecodeError) as caught:
        codec_of(Everything).decode(value)
    assert caught.value.path == path
    assert says in caught.value.reason
    assert "canary" not in str(caught.value)


def test_a_number_becomes_a_decimal_exactly() -> None:
    """Amounts of money never pass through a float."""
    event = codec_of(Line).decode(b'{"product_id":"p","price":12.10}')
    assert str(event.price) == "12.10"


@pytest.mark.parametrize("price", [Decimal("NaN"), Decimal("Infinity"), Decimal("1e500")])
def test_a_decimal_that_could_not_be_read_back_is_not_written(price: Decimal) -> None:
    """The codec writes only values that it can read; the error names the field."""
    with pytest.raises(ValueError, match=r"test\.codec\.Line\.price"):
        codec_of(Line).encode(Line(product_id="p", price=price))


def test_a_value_that_json_cannot_carry_is_not_written() -> None:
    """The error names the class."""

    class Loose(Part, namespace="test.codec.Loose"):
        anything: Any

    with pytest.raises(TypeError, match=r"test\.codec\.Loose"):
        codec_of(Loose).encode(Loose(anything=object()))


def test_a_field_that_json_cannot_carry_is_an_error_at_once() -> None:
    """The error is raised when the codec is built, and names the field."""

    class Strange(Part, namespace="test.codec.Strange"):
        when: complex

    with pytest.raises(TypeError, match=r"Strange\.when is a complex"):
        Codec(Strange)


def test_a_union_that_cannot_be_told_apart_is_an_error_at_once() -> None:
    """A record in a union with another type has no tag that tells them apart."""

    class Either(Part, namespace="test.codec.Either"):
        what: Line | str

    with pytest.raises(TypeError, match=r"Either\.what: a Record can be optional"):
        Codec(Either)


def test_a_record_inside_itself_is_an_error_at_once() -> None:
    """Trees are not supported; without the check, the codec would recurse forever."""

    class Tree(Part, namespace="test.codec.Tree"):
        branches: list["Tree"]

    with pytest.raises(TypeError, match="Tree contains itself"):
        Codec(Tree)


def test_a_field_with_another_name_on_the_wire_is_an_error_at_once() -> None:
    """Only half of the code would use the alias, so aliases are refused."""

    class Aliased(Part, namespace="test.codec.Aliased"):
        name: str = faust.models.fields.StringField(field="wire_name", required=True)

    with pytest.raises(TypeError, match=r"Aliased\.name"):
        Codec(Aliased)


class Measured(Part, namespace="test.codec.Measured"):
    """Floats, of which JSON has only finite ones."""

    weight: float
    weights: list[float]
    anything: Any = None


def test_decoding_looks_at_no_float() -> None:
    """JSON has only finite floats, so one call makes the record with any number of floats."""
    codec = codec_of(Measured)
    called: list[str] = []

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        codec.decode(b'{"weight": 1.5, "weights": [1.5, 2.5], "anything": 1.5}')
    finally:
        sys.setprofile(None)
    assert called == ["decode", "become_at_once"]


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity", '"NaN"'])
def test_a_float_that_is_not_finite_is_refused(text: str) -> None:
    """A field of type Any is checked too."""
    for field in ("weight", "weights", "anything"):
        value = {
            "weight": "1.5",
            "weights": "[]",
            field: f"[{text}]" if field == "weights" else text,
        }
        if (field, text) == ("anything", '"NaN"'):
            continue
        with pytest.raises(DecodeError):
            codec_of(Measured).decode(
                f"{{{', '.join(f'{json.dumps(k)}: {v}' for k, v in value.items())}}}".encode()
            )
