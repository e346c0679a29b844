"""Tests of encoding JSON: a value that could not be read is refused, by its place alone."""

import collections
import collections.abc
import math
from dataclasses import field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar
from uuid import UUID

import msgspec
import pytest
from faust.models.fields import IntegerField, StringField

from famulus import Event, Part
from famulus.errors import DecodeError
from famulus.serialization.json_codec import codec_of

T = TypeVar("T")
Name = NewType("Name", str)
CANARY = "canary's-4711"
NONE: Any = None


class Colour(Enum):
    """An enumeration of texts."""

    RED = "red"


class Piece(Part, namespace="test.writing.Piece"):
    """A nested part."""

    name: str
    price: Decimal


def a_class(annotation: Any, **attributes: Any) -> type[Any]:
    """Return a model with one field."""
    return type(
        "Made",
        (Part,),
        {"__annotations__": {"field": annotation}, **attributes},
        namespace="test.writing.Made",
    )


PIECE = Piece(name="x", price=Decimal("1.20"))

HELD: list[tuple[Any, Any]] = [
    (collections.abc.Sequence[Piece], [PIECE]),
    (collections.abc.Collection[Decimal], [Decimal(1)]),
    (collections.abc.Iterable[Piece], [PIECE]),
    (collections.abc.MutableSequence[int], [1]),
    (collections.abc.Mapping[str, Piece], {"a": PIECE}),
    (collections.abc.MutableMapping[UUID, Piece], {UUID(int=1): PIECE}),
    (collections.abc.Set[Colour], {Colour.RED}),
    (collections.abc.MutableSet[int], {1}),
    (set[Piece], {PIECE}),
    (frozenset[Piece], frozenset([PIECE])),
    (tuple[Piece, str], (PIECE, "x")),
    (tuple[Decimal, ...], (Decimal(1),)),
    (list, [1, "a"]),
    (dict, {"a": [1]}),
    (set, {1}),
    (tuple, (1,)),
    (object, [1]),
    (Any, None),
    (Annotated[int, msgspec.Meta(ge=1)], 1),
    (list[Annotated[str, "a note"]], ["a"]),
    (Name, Name("a")),
    (Literal["a", 1], "a"),
    (dict[Colour, list[Piece | None]], {Colour.RED: [PIECE, None]}),
    (dict[int, Decimal], {1: Decimal(2)}),
    (int | str | None, "a"),
    (bytes, b"\xff"),
]


@pytest.mark.parametrize(("annotation", "value"), HELD)
def test_what_a_field_of_any_type_holds_comes_back_the_same(annotation: Any, value: object) -> None:
    """Abstract containers become plain ones, and records may stand in all of them."""
    made = a_class(annotation)
    event = made(field=value)
    back = codec_of(made).decode(codec_of(made).encode(event))
    assert back == event
    assert (back.field, type(back.field)) == (value, type(value))


@pytest.mark.parametrize(
    "annotation",
    [
        complex,
        type,
        collections.deque[int],
        collections.OrderedDict[str, int],
        collections.abc.Iterator[int],
        T,
        Piece | str,
        Colour | Decimal,
        collections.abc.Callable[[int], int],
        range,
    ],
)
def test_a_type_that_json_cannot_carry_is_one_line_that_names_class_and_field(
    annotation: Any,
) -> None:
    """The error is raised when the codec is built, before anything is read."""
    with pytest.raises(TypeError, match=r"Made\.field") as caught:
        codec_of(a_class(annotation))
    assert "\n" not in str(caught.value)


WRONG: list[tuple[Any, Any]] = [
    (str, None),
    (str, CANARY.encode()),
    (str, [CANARY]),
    (str, 1),
    (str, UUID(int=4711)),
    (int, None),
    (int, True),
    (int, 4711.5),
    (bool, None),
    (bool, 4711),
    (float, math.nan),
    (float, -math.inf),
    (UUID, None),
    (UUID | None, CANARY),
    (UUID, str(UUID(int=4711))),
    (date, datetime(4711, 1, 1, tzinfo=UTC)),
    (datetime, date(4711, 1, 1)),
    (date | None, CANARY),
    (Colour, CANARY),
    (Colour, "RED"),
    (Colour | None, "red"),
    (list[Colour], ["red"]),
    (Decimal | None, Decimal("NaN")),
    (list[Decimal], [Decimal("Infinity")]),
    (dict[str, float], {CANARY: math.nan}),
    (Any, {CANARY: [math.inf]}),
    (dict, {"a": math.nan}),
    (list, [Decimal("sNaN")]),
    (dict[int, int], {CANARY: 1}),
    (dict[str, int], {None: 1}),
    (list[int], CANARY),
    (list[str], [None]),
    (Piece, None),
    (list[Piece], [PIECE, None]),
    (Piece, Piece(name=NONE, price=Decimal(1))),
    (Literal["a"], CANARY),
    (Literal[1], 4711),
    (Annotated[int, msgspec.Meta(ge=1)], 0),
    (Any, object()),
    (list[str], [CANARY + "\ud800"]),
    (tuple[int, int], (1,)),
]


@pytest.mark.parametrize(("annotation", "value"), WRONG)
def test_what_would_not_be_read_is_not_written(annotation: Any, value: object) -> None:
    """The error names the class, the field if msgspec knows it, and never the value."""
    made = a_class(annotation)
    event: Any = object.__new__(made)
    event.__evaluated_fields__ = {"field"}
    event.__dict__["field"] = value
    with pytest.raises((TypeError, ValueError), match=r"test\.writing\.Made") as caught:
        codec_of(made).encode(event)
    for quoted in ("canary", "4711"):
        assert quoted not in str(caught.value)


@pytest.mark.parametrize(
    ("annotation", "value"), [(str, None), (str, b"x"), (str, ["x"]), (bool, None), (int, 1.5)]
)
def test_faust_makes_no_text_of_what_is_none(annotation: Any, value: object) -> None:
    """No value is converted when an event is made."""
    made = a_class(annotation)
    with pytest.raises(TypeError, match=r"Made\.field"):
        codec_of(made).encode(made(field=value))


def test_a_nested_fault_is_named_by_its_path() -> None:
    made = a_class(list[Piece])
    with pytest.raises(
        TypeError, match=r"test\.writing\.Made\.field\[1\]\.name cannot be written: Expected `str`"
    ):
        codec_of(made).encode(made(field=[PIECE, Piece(name=NONE, price=Decimal(1))]))


class Basket(Event, namespace="test.writing.Basket", topic="baskets", key="owner"):
    """An event with mutable defaults."""

    owner: str
    lines: list[str] = []  # mutable defaults are tested
    notes: dict[str, list[str]] = {"a": []}
    first: Piece = PIECE
    made: list[str] = field(default_factory=lambda: ["x"])
    many: tuple[list[int], ...] = ([],)


def test_a_default_is_never_shared_neither_by_hand_nor_decoded() -> None:
    """A change of one event's default shows in no other event."""
    basket: Any = Basket
    ways: Any = (
        lambda: Basket(owner="a"),
        lambda: basket("a"),
        lambda: codec_of(Basket).decode(b'{"owner":"a"}'),
    )
    for way in (*ways, *ways):
        event = way()
        assert (event.lines, event.notes, event.first.name, event.made, event.many) == (
            [],
            {"a": []},
            "x",
            ["x"],
            ([],),
        )
        event.lines.append("b")
        event.notes["a"].append("b")
        event.first.name = "b"
        event.made.append("b")
        event.many[0].append(1)
    assert Basket(owner="a", lines=["c"]).lines == ["c"]


@pytest.mark.parametrize(
    ("annotation", "default"),
    [(Decimal, 0), (int, "1"), (str, None), (UUID, "x"), (list[int], ["x"])],
)
def test_a_default_of_another_type_is_refused(annotation: Any, default: object) -> None:
    """Otherwise an event would have the declared type only if the sender gives a value."""
    with pytest.raises(TypeError, match=r"Made\.field has a default of another type"):
        codec_of(a_class(annotation, field=default))


class Checked(Part, namespace="test.writing.Checked", validation=True):
    """A part with limits and its own check."""

    number: int = IntegerField(min_value=1, max_value=9)
    name: str = StringField(max_length=30)

    def __post_init__(self) -> None:
        self.double = self.number * 2
        if self.name == "canary":
            raise ValueError(f"{self.name} is not wanted")


def test_a_classs_own_checks_run_for_decoded_events() -> None:
    """Attributes that the check sets are there."""
    assert codec_of(Checked).decode(b'{"number":4,"name":"a"}').double == 8


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        (
            b'{"number":-4711,"name":"a"}',
            "$.number",
            "IntegerField refuses it (min_value=1, max_value=9)",
        ),
        (b'{"number":4711,"name":"a"}', "$.number", "IntegerField refuses it"),
        (
            b'{"number":1,"name":"' + b"canary" * 9 + b'"}',
            "$.name",
            "StringField refuses it (max_length=30)",
        ),
        (b'{"number":1,"name":"canary"}', "$", "Checked.__post_init__ refuses it (ValueError)"),
    ],
)
def test_what_a_classs_own_checks_refuse_is_poison(value: bytes, path: str, says: str) -> None:
    """The error has the path and no part of the payload."""
    with pytest.raises(DecodeError) as caught:
        codec_of(Checked).decode(value)
    assert (caught.value.path, says in caught.value.reason) == (path, True)
    assert "canary" not in str(caught.value)
    assert "4711" not in str(caught.value)


class Envelope(Part, Generic[T], abstract=True):
    """A generic base."""

    id: str
    data: T
    more: list[T] | None = None


class Paid(Envelope[Piece], namespace="test.writing.Paid"):
    """A class that names the type of its data."""


def test_the_type_of_a_generic_base_is_decoded_and_checked() -> None:
    codec = codec_of(Paid)
    event = codec.decode(
        b'{"id":"1","data":{"name":"n","price":"1"},"more":[{"name":"n","price":"1"}]}'
    )
    assert (type(event.data), type(event.more[0])) == (Piece, Piece)  # type: ignore[index]
    assert codec.decode(codec.encode(event)) == event
    with pytest.raises(DecodeError, match=r"\$\.data\.price"):
        codec.decode(b'{"id":"1","data":{"name":"n","price":"x"}}')


READ: list[tuple[Any, bytes]] = [
    (Colour, b'"O\'Brien canary"'),
    (Literal[1, 2], b"4711"),
    (Literal["a"], b'"canary"'),
    (dict[int, int], b'{"canary":1}'),
    (dict[Colour, int], b'{"canary\' - at `$.x`":1}'),
    (dict[str, int], b'{"canary":"4711"}'),
    (dict[UUID, int], b'{"canary":1}'),
    (Decimal, b'"canary"'),
    (bytes, b'"canary!"'),
    (Annotated[int, msgspec.Meta(le=5)], b"4711"),
    (float, b'"canary"'),
    (int, b"4711.5"),
    (Annotated[str, msgspec.Meta(pattern="^a$")], b'"canary"'),
    (Colour, b'"canary\\" - at `$.canary`"'),
]


@pytest.mark.parametrize(("annotation", "raw"), READ)
def test_a_reason_quotes_nothing_of_what_was_sent(annotation: Any, raw: bytes) -> None:
    """The values have an apostrophe, are keys, or are no valid literal."""
    with pytest.raises(DecodeError) as caught:
        codec_of(a_class(annotation)).decode(b'{"field":' + raw + b"}")
    assert caught.value.path.startswith("$.field")
    assert "canary" not in str(caught.value)
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b'\xef\xbb\xbf{"field":"a"}', "byte order mark"),
        (b'{"field":"\\ud800"}', "lone surrogate"),
        (b'{"fie', "trunc"),
    ],
)
def test_odd_text_is_called_what_it_is(value: bytes, says: str) -> None:
    """A precise error helps to find the mistake of the sender."""
    with pytest.raises(DecodeError, match=says):
        codec_of(a_class(str)).decode(value)
