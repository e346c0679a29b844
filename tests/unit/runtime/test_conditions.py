"""Tests of the watch for conditions: what it records, logs and ends the worker for.

No check may end unseen.
"""

import asyncio
from collections.abc import Iterable

import pytest
from structlog.testing import capture_logs

from famulus.errors import ConfigError
from famulus.runtime.conditions import Condition, Conditions, Look, Watch
from tests.support.in_memory.clock import Clock

GONE = Condition("topic-missing", "t", "topic t was deleted")
SKEW = Condition("clock", "here", "the clock is wrong", is_red=False)
ENDING = Condition("agent", "a", "agent a does not carry", ends_after_s=20.0)


class Faults:
    """Collector of the errors that end the worker."""

    def __init__(self) -> None:
        self.all: list[Exception] = []

    async def note(self, error: Exception) -> None:
        """Collect *error*."""
        self.all.append(error)


def look_of(found: list[Condition] | None) -> Look:
    """Return a check that finds the conditions in *found* at that time."""

    async def look() -> Iterable[Condition] | None:
        return found

    return look


def test_a_condition_is_said_when_it_comes_and_when_it_is_over() -> None:
    """A condition is not logged at each check; one with a new text is still the same."""
    conditions = Conditions()
    with capture_logs() as said:
        conditions.look(0.0, [GONE, SKEW])
        conditions.look(10.0, [GONE, Condition("clock", "here", "by more now", is_red=False)])
        assert [condition.why for condition in conditions.all] == [
            "topic t was deleted",
            "by more now",
        ]
        conditions.look(10.0, [])
    assert [(line["log_level"], line["event"]) for line in said] == [
        ("error", "topic t was deleted"),
        ("warning", "the clock is wrong"),
        ("warning", "this is over"),
        ("warning", "this is over"),
    ]
    assert said[-1]["seconds"] == 10


async def test_a_condition_that_lasts_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code is 78, because a person has to act.

    A condition that does not end the worker stays in `/readyz`.
    """
    clock, faults = Clock(monkeypatch), Faults()
    watch = Watch([look_of([GONE, SKEW, ENDING])], 10.0, faults.note)
    watch.start()
    await asyncio.sleep(25)
    assert (watch.red, watch.warnings) == ([GONE.why, ENDING.why], [SKEW.why])
    assert watch.counts == {"topic-missing": 1, "clock": 1, "agent": 1}
    assert not faults.all
    await asyncio.sleep(10)
    watch.stop()
    assert (clock.passed_s, type(faults.all[0]), str(faults.all[0])) == (
        35.0,
        ConfigError,
        ENDING.why,
    )


async def test_a_look_that_cannot_say_leaves_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka may be unavailable for a while."""
    Clock(monkeypatch)
    found: list[list[Condition] | None] = [[GONE]]

    async def look() -> list[Condition] | None:
        return found[-1]

    watch = Watch([look, look_of([SKEW])], 1.0, Faults().note)
    watch.start()
    await asyncio.sleep(1.5)
    found.append(None)
    await asyncio.sleep(2)
    assert watch.red == [GONE.why]
    found.append([])
    await asyncio.sleep(1)
    assert (watch.red, watch.warnings) == ([], [SKEW.why])
    watch.stop()


async def test_a_look_that_fails_ends_the_worker_and_one_that_is_cancelled_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the checks would stop unnoticed."""
    Clock(monkeypatch)
    faults, looks = Faults(), [0]

    async def look() -> list[Condition]:
        looks[0] += 1
        if looks[0] == 1:
            raise asyncio.CancelledError
        if looks[0] == 3:
            raise ValueError("a bug")
        return [GONE]

    watch = Watch([look], 1.0, faults.note)
    watch.start()
    await asyncio.sleep(2.5)
    assert watch.red == [GONE.why]
    await asyncio.sleep(1)
    watch.stop()
    assert [type(error) for error in faults.all] == [ValueError]


async def test_a_look_can_be_had_soon_and_none_comes_after_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An early check may explain a failure."""
    Clock(monkeypatch)
    found = [GONE]
    watch = Watch([look_of(found)], 10.0, Faults().note)
    watch.start()
    watch.look_soon()
    await asyncio.sleep(0.1)
    assert watch.red == [GONE.why]
    watch.stop()
    watch.look_soon()
    found.clear()
    await asyncio.sleep(30)
    assert watch.red == [GONE.why]
