"""Tests of redaction: sensitive fields are never shown, at any depth; all other fields are."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus import Event, Part
from famulus.processing.handlers import EventTypes
from famulus.serialization.redaction import Places, hidden, places_at, places_in
from famulus.web.worker_status import as_json


class Address(Part, namespace="people.Address", sensitive=("street",)):
    """A part of events."""

    street: str
    town: str = ""


class Known(Part, namespace="people.Known", abstract=True, sensitive=("email",)):
    """An abstract base with a sensitive field."""

    email: str = ""


class Lead(Known, namespace="people.Lead"):
    """A part that inherits the sensitive field."""

    name: str = ""


class Moved(Event, namespace="people.Moved", topic="people", key="person", sensitive=("note",)):
    """An event with sensitive fields at all kinds of places."""

    person: str
    note: str | None = None
    at: Address | None = None
    before: list[Address] = []  # Faust copies the default of a Record
    by_name: dict[str, Address] = {}  # as above


class Renamed(Event, namespace="people.Renamed", topic="people", key="person"):
    """An event without sensitive fields."""

    person: str
    name: str = ""


PRIVATE: dict[str, Any] = {
    "person": "p",
    "note": "secret-1",
    "at": {"street": "secret-2", "town": "t"},
    "before": [{"street": "secret-3", "town": "u"}],
    "by_name": {"home": {"street": "secret-4", "town": "v"}},
}
SHOWN = {
    "person": "p",
    "note": "***",
    "at": {"street": "***", "town": "t"},
    "before": [{"street": "***", "town": "u"}],
    "by_name": {"home": {"street": "***", "town": "v"}},
}


def test_sensitive_fields_are_stars_wherever_they_are() -> None:
    """Parts, lists and dicts are searched; null and missing fields stay so."""
    places = places_in(Moved)
    assert json.loads(hidden(json.dumps(PRIVATE).encode(), places) or b"") == SHOWN
    assert json.loads(hidden(b'{"person":"p","at":null}', places) or b"") == {
        "person": "p",
        "at": None,
    }
    assert hidden(None, places) is None
    assert hidden(b"not JSON, and maybe secret", places) == b"***"


def test_what_is_not_sensitive_is_not_touched() -> None:
    """The bytes are equal."""
    assert places_in(Renamed) == {}
    assert hidden(b"{ whatever", Places()) == b"{ whatever"


def test_poison_of_a_topic_hides_what_any_of_its_types_does() -> None:
    """An envelope hides the sensitive fields of its data."""
    types = EventTypes("people", [Moved, Renamed])
    assert json.loads(types.shown(b'{"note":["secret"],"name":"n"}') or b"") == {
        "note": "***",
        "name": "n",
    }
    enveloped = {"specversion": "1.0", "type": "people.Moved", "data": PRIVATE}
    assert json.loads(types.shown(json.dumps(enveloped).encode()) or b"")["data"] == SHOWN
    assert b"c2VjcmV0" not in (types.shown(b'{"data_base64":"c2VjcmV0"}') or b"")
    assert EventTypes("people", [Renamed]).shown(b'{"note":"x"}') == b'{"note":"x"}'


DEEP = 990  # levels that msgspec still decodes


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        # A record was expected.
        ({"at": "SECRET"}, {"at": "***"}),
        (
            {"at": ["SECRET", {"street": "SECRET", "town": "t"}]},
            {"at": ["***", {"street": "***", "town": "t"}]},
        ),
        ({"before": "SECRET"}, {"before": "***"}),
        ({"before": {"street": "SECRET"}}, {"before": {"street": "***"}}),
        ({"by_name": {"home": "SECRET"}}, {"by_name": {"home": "***"}}),
        ({"by_name": ["SECRET"]}, {"by_name": ["***"]}),
        ({"at": {"at": {"street": "SECRET"}}}, {"at": {"at": "***"}}),
        # A text was expected.
        ({"person": {"note": "SECRET"}}, {"person": "***"}),
        ({"person": ["SECRET"]}, {"person": "***"}),
        ({"note": {"any": ["SECRET"]}}, {"note": "***"}),
        # Names that no class has.
        (
            {"Note": "SECRET", "NOTE": "SECRET", "notes": {"note": "SECRET"}},
            {"Note": "***", "NOTE": "***", "notes": "***"},
        ),
        ({"unknown": {"payload": {"note": "SECRET"}}}, {"unknown": "***"}),
        # Values that are no events at all.
        ("SECRET", "***"),
        (["SECRET", {"note": "SECRET"}], ["***", {"note": "***"}]),
        (4711, "***"),
        (None, None),
        # Envelopes.
        (
            {
                "specversion": "1.0",
                "id": "7",
                "data": {"note": "SECRET", "person": "p"},
                "note": "SECRET",
            },
            {
                "specversion": "1.0",
                "id": "7",
                "data": {"note": "***", "person": "p"},
                "note": "***",
            },
        ),
        (
            {"specversion": "1.0", "data": "SECRET", "source": {"x": "SECRET"}},
            {"specversion": "1.0", "data": "***", "source": "***"},
        ),
        (
            {"payload": {"note": "SECRET", "person": "p"}},
            {"payload": {"note": "***", "person": "p"}},
        ),
        (
            {"person": "p", "__faust": {"ns": "people.Moved"}},
            {"person": "p", "__faust": {"ns": "people.Moved"}},
        ),
    ],
)
def test_what_has_another_shape_than_it_should_is_stars(value: object, shown: object) -> None:
    """If a class has sensitive fields, only declared fields of the declared types are shown."""
    assert json.loads(hidden(json.dumps(value).encode(), places_in(Moved)) or b"") == shown


@pytest.mark.parametrize(
    "value",
    [
        b'{"person":' + b'{"x":' * DEEP + b'"SECRET"' + b"}" * DEEP + b"}",
        b'{"by_name":' + b"[" * DEEP + b'"SECRET"' + b"]" * DEEP + b"}",
        b"[" * 100_000,
        b'{"note":"SECRET"',
        b'{"note":"SECRET\xff"}',
        b'{"note":"SECRET","note":"SECRET"}',
        b"SECRET",
        b'{"note":"SECRET","person":1e999}',
        b'{"note":"SECRET","person":' + b"9" * 400 + b"}",
        b"",
        b"\xef\xbb\xbf{}",
        b'{"person":"p","person":{"note":"SECRET"}}',
    ],
)
def test_whatever_it_is_something_is_shown_and_nothing_private(value: bytes) -> None:
    """Values that cannot be decoded raise no error."""
    shown = hidden(value, places_in(Moved))
    assert shown
    assert b"SECRET" not in shown
    assert EventTypes("people", [Moved, Renamed]).shown(value) == shown or b"SECRET" not in shown


content = st.recursive(
    st.just("SECRET"),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "note",
                    "at",
                    "street",
                    "before",
                    "by_name",
                    "x",
                    "data",
                    "Note",
                    "payload",
                    "email",
                ]
            ),
            inside,
            max_size=3,
        )
    ),
    max_leaves=12,
)
private = st.fixed_dictionaries(
    {},
    optional={
        "note": content,
        "at": content,
        "before": content,
        "by_name": st.lists(content),
        "x": content,
        "person": st.lists(content),
        "data": content,
        "data_base64": content,
        "payload": content,
        "__faust": st.just({}),
        "Note": content,
    },
)


@given(value=private, is_enveloped=st.booleans())
def test_a_secret_in_a_sensitive_place_or_inside_of_one_is_never_shown(
    value: dict[str, Any], *, is_enveloped: bool
) -> None:
    """The name `town`, which is not sensitive, is not generated."""
    whole = {"specversion": "1.0", "data": value} if is_enveloped else value
    for types in ([Moved], [Moved, Renamed], [Renamed, Moved]):
        assert b"SECRET" not in (
            EventTypes("people", types).shown(json.dumps(whole).encode()) or b""
        )


def test_a_table_of_lists_or_mappings_hides_what_is_in_them() -> None:
    """A union hides the sensitive fields of each of its types."""
    encoded = json.dumps([{"street": "SECRET", "town": "t"}]).encode()
    assert json.loads(hidden(encoded, places_at(list[Address])) or b"") == [
        {"street": "***", "town": "t"}
    ]
    by_name = json.dumps({"home": {"street": "SECRET", "town": "t"}}).encode()
    assert json.loads(hidden(by_name, places_at(dict[str, Address])) or b"") == {
        "home": {"street": "***", "town": "t"}
    }
    either = places_at(Address | Lead | None)
    assert (
        json.loads(hidden(b'{"email":"SECRET","town":"t","street":"SECRET"}', either) or b"")[
            "town"
        ]
        == "t"
    )
    assert b"SECRET" not in (
        hidden(b'{"email":"SECRET","town":"t","street":"SECRET"}', either) or b""
    )
    assert places_at(dict[str, int]) == {}


def test_rows_of_tables_are_shown_like_that() -> None:
    """The web views and the console use this encoding."""
    row = Moved(person="p", note="secret", at=Address(street="secret", town="t"))
    assert json.loads(as_json({"row": row}))["row"] == {
        "person": "p",
        "note": "***",
        "at": {"street": "***", "town": "t"},
        "before": [],
        "by_name": {},
    }


def test_a_name_that_is_no_field_and_a_key_are_refused() -> None:
    """The error is raised at import; subclasses inherit sensitive fields."""
    with pytest.raises(TypeError, match="Wrong has no field nott, which it calls sensitive"):

        class Wrong(Part, namespace="people.Wrong", sensitive=("nott",)):
            note: str

    with pytest.raises(TypeError, match="calls its key 'person' sensitive"):

        class Hidden(
            Event, namespace="people.Hidden", topic="people", key="person", sensitive=("person",)
        ):
            person: str

    class Customer(Known, namespace="people.Customer"):
        name: str = ""

    assert places_in(Customer) == {"email": True}
