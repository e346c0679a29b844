"""Tests of the answers of `explain`: the state of an event, judged from facts alone."""

from dataclasses import replace
from typing import Any, get_args

import pytest

from famulus.control.pauses import AuditInfo, PauseScope
from famulus.inspection.explain.answers import Dead, Facts, Postponed, State, answer_of
from famulus.state.changelog import SeenMark
from famulus.state.failure_state import AttemptCount

WHY = AuditInfo("ann@desk", "2026-01-31T12:00:00Z", "moving")
LETTER = Dead("3f2a91bc", "permanent", "agents.things.note", "PermanentError", "no", 1_000)
AT = Facts(
    "things",
    0,
    7,
    begin=0,
    end=9,
    is_there=True,
    type_name="things.Thing",
    next_offset=7,
    members=1,
)
LATER = Postponed("things.g.retry-2", "agents.things.note", 4, 1_000, 92_000)
PRODUCERS = "kafka-transactions.sh describe-producers --topic things --partition 0"
TRIED = {"agents.things.note": AttemptCount(2, 1_000, 90_000)}
ROWS: list[tuple[State, dict[str, Any], str]] = [
    ("not written", {"is_there": False, "end": 7}, ""),
    (
        "behind a transaction",
        {"is_there": False, "end": 7, "written": 9},
        f"whoever began it has to end it; {PRODUCERS} says who that is",
    ),
    ("gone", {"is_there": False, "begin": 8}, ""),
    ("no record", {"is_there": False}, ""),
    ("dead letter", {"letters": [LETTER]}, "faust -A app dlq redrive things/0/7"),
    (
        "parked",
        {"letters": [replace(LETTER, kind="parked")], "dead_before": 3},
        "faust -A app dlq redrive things/0/3",
    ),
    (
        "parked",
        {"letters": [replace(LETTER, kind="parked")]},
        "faust -A app dlq redrive things/0/7",
    ),
    ("redriven", {"letters": [replace(LETTER, was="redriven")]}, ""),
    ("dropped", {"letters": [replace(LETTER, was="dropped")]}, ""),
    ("handled", {"next_offset": 8, "mark": SeenMark(1_000, 7)}, ""),
    ("handled", {"is_ahead": True, "mark": SeenMark(1_000, 7)}, ""),
    ("duplicate", {"next_offset": 8, "mark": SeenMark(1_000, 2)}, ""),
    ("ignored", {"next_offset": 8, "is_handled_type": False}, "add a handler, or leave it"),
    ("settled", {"next_offset": 8}, ""),
    ("nobody reads", {"members": 0, "pause": (PauseScope(), WHY)}, "faust -A app worker"),
    ("paused", {"pause": (PauseScope(), WHY)}, "faust -A app resume --all"),
    (
        "paused",
        {"pause": (PauseScope("things"), WHY), "tried": {7: TRIED}},
        "faust -A app resume things",
    ),
    (
        "paused",
        {"pause": (PauseScope("things", 0), WHY), "before": [5]},
        "faust -A app resume things --partition 0",
    ),
    ("in back-off", {"tried": {7: TRIED}}, "nothing: it is tried again by itself"),
    (
        "in back-off",
        {"next_offset": 8, "mark": SeenMark(1_000, 7), "postponed": [LATER]},
        "nothing: it is tried again by itself",
    ),
    (
        "in back-off",
        {"next_offset": 8, "postponed": [LATER], "letters": [replace(LETTER, was="redriven")]},
        "nothing: it is tried again by itself",
    ),
    ("nobody reads", {"next_offset": 8, "postponed": [LATER], "members": 0}, "faust -A app worker"),
    (
        "dead letter",
        {"letters": [LETTER], "postponed": [LATER]},
        "faust -A app dlq redrive things/0/7",
    ),
    ("behind", {"before": [5, 6], "next_offset": 5}, "faust -A app explain things 0 5"),
    ("waiting", {"fault": "$: no JSON"}, ""),
    ("next", {}, "see the worker's /livez for what is in hand for too long"),
    ("waiting", {"next_offset": 4}, "faust -A app lag"),
]


@pytest.mark.parametrize(("state", "facts", "action"), ROWS)
def test_each_answer_and_what_gets_the_event_on(
    state: State, facts: dict[str, Any], action: str
) -> None:
    """An answer names one action at most."""
    answer = answer_of(replace(AT, **facts), now_ms=2_000)
    assert (answer.state, answer.action) == (state, action)
    assert answer.why
    assert not (answer.is_good and answer.is_bad)


def test_every_answer_has_a_row() -> None:
    """Every new answer needs a test."""
    assert {state for state, *_ in ROWS} == set(get_args(State))


def test_a_pause_says_who_since_when_and_why() -> None:
    """An operator needs no further look."""
    answer = answer_of(replace(AT, pause=(PauseScope("things"), WHY)), now_ms=2_000)
    assert answer.why == "things is paused since 2026-01-31T12:00:00Z by ann@desk: moving"


def test_an_event_in_a_retry_topic_says_where_for_whom_and_until_when() -> None:
    """The effects of its other handlers may be settled already."""
    answer = answer_of(
        replace(AT, next_offset=8, mark=SeenMark(1_000, 7), postponed=[LATER]), now_ms=2_000
    )
    assert answer.why == (
        "waits in things.g.retry-2, agents.things.note has failed 4 times since 1970-01-01 "
        "00:00:01, tried again in "
        "1.5 min"
    )
