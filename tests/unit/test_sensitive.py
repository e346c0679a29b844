"""What an event's class calls sensitive is shown to nobody, wherever it stands in it; all else is."""

import json
from typing import Any

import pytest

from app.console.gathering import as_json
from app.engine.dispatch import EventTypes
from app.wire.sensitive import hidden, places_in
from models.event import Event, Part


class Address(Part, namespace="people.Address", sensitive=("street",)):
    """A part of events."""

    street: str
    town: str = ""


class Known(Part, namespace="people.Known", abstract=True, sensitive=("email",)):
    """What several have in common."""

    email: str = ""


class Moved(Event, namespace="people.Moved", topic="people", key="person", sensitive=("note",)):
    """An event with all kinds of places."""

    person: str
    note: str | None = None
    at: Address | None = None
    before: list[Address] = []  # noqa: RUF012  # a Record's default
    by_name: dict[str, Address] = {}  # noqa: RUF012  # as above


class Renamed(Event, namespace="people.Renamed", topic="people", key="person"):
    """One with nothing sensitive."""

    person: str
    name: str = ""


PRIVATE: dict[str, Any] = {
    "person": "p", "note": "secret-1", "at": {"street": "secret-2", "town": "t"},
    "before": [{"street": "secret-3", "town": "u"}], "by_name": {"home": {"street": "secret-4", "town": "v"}},
}  # fmt: skip
SHOWN = {
    "person": "p", "note": "***", "at": {"street": "***", "town": "t"},
    "before": [{"street": "***", "town": "u"}], "by_name": {"home": {"street": "***", "town": "v"}},
}  # fmt: skip


def test_sensitive_fields_are_stars_wherever_they_are() -> None:
    """In parts, lists, dicts; what is null or missing stays so."""
    places = places_in(Moved)
    assert json.loads(hidden(json.dumps(PRIVATE).encode(), places) or b"") == SHOWN
    assert json.loads(hidden(b'{"person":"p","at":null}', places) or b"") == {"person": "p", "at": None}
    assert hidden(None, places) is None
    assert hidden(b"not JSON, and maybe secret", places) == b"***"


def test_what_is_not_sensitive_is_not_touched() -> None:
    """Not a byte of it."""
    assert places_in(Renamed) == {}
    assert hidden(b"{ whatever", {}) == b"{ whatever"


def test_poison_of_a_topic_hides_what_any_of_its_types_does() -> None:
    """And an envelope what is in it."""
    types = EventTypes("people", [Moved, Renamed])
    assert json.loads(types.shown(b'{"note":["secret"],"name":"n"}') or b"") == {"note": "***", "name": "n"}
    enveloped = {"specversion": "1.0", "type": "people.Moved", "data": PRIVATE}
    assert json.loads(types.shown(json.dumps(enveloped).encode()) or b"")["data"] == SHOWN
    assert b"c2VjcmV0" not in (types.shown(b'{"data_base64":"c2VjcmV0"}') or b"")
    assert EventTypes("people", [Renamed]).shown(b'{"note":"x"}') == b'{"note":"x"}'


def test_rows_of_tables_are_shown_like_that() -> None:
    """By the web views and the console."""
    row = Moved(person="p", note="secret", at=Address(street="secret", town="t"))
    assert json.loads(as_json({"row": row}))["row"] == {
        "person": "p", "note": "***", "at": {"street": "***", "town": "t"}, "before": [], "by_name": {},
    }  # fmt: skip


def test_a_name_that_is_no_field_and_a_key_are_refused() -> None:
    """At import; a class of Parts hands on what it calls sensitive."""
    with pytest.raises(TypeError, match="Wrong has no field nott, which it calls sensitive"):

        class Wrong(Part, namespace="people.Wrong", sensitive=("nott",)):
            note: str

    with pytest.raises(TypeError, match="calls its key 'person' sensitive"):

        class Hidden(Event, namespace="people.Hidden", topic="people", key="person", sensitive=("person",)):
            person: str

    class Customer(Known, namespace="people.Customer"):
        name: str = ""

    assert places_in(Customer) == {"email": True}
