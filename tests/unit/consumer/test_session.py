"""Tests of the group session: heartbeats whose answers keep the worker in its group."""

import pytest

from famulus.consumer import session as group_session
from famulus.consumer.session import GroupSession

SESSION_S = 45.0


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Return the time that the session reads."""
        return self.now


class Coordinator:
    """The part of aiokafka's coordinator that the session uses.

    *answers* is the answer of the broker to heartbeats.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers = True
        self.takes_s = 0.0

    async def _do_heartbeat(self) -> bool:
        self._clock.now += self.takes_s
        return self.answers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the module `time` with a clock, and return it."""
    made = Clock()
    monkeypatch.setattr(group_session, "time", made)
    return made


async def test_it_is_held_as_long_as_heartbeats_are_answered(clock: Clock) -> None:
    """The time when a heartbeat was sent counts, because a late answer describes the past."""
    held, coordinator = GroupSession(), Coordinator(clock)
    assert not held.is_held(SESSION_S)
    held.renew(coordinator)
    clock.now += SESSION_S - 1
    assert held.is_held(SESSION_S)
    coordinator.takes_s = 10.0
    assert await coordinator._do_heartbeat()
    clock.now += SESSION_S - 11
    assert held.is_held(SESSION_S)
    coordinator.answers = False
    assert not await coordinator._do_heartbeat()
    assert not held.is_held(SESSION_S)


async def test_joining_again_counts_and_wraps_nothing_twice(clock: Clock) -> None:
    """Every rebalance renews the session."""
    held, coordinator = GroupSession(), Coordinator(clock)
    held.renew(coordinator)
    noted = coordinator._do_heartbeat
    clock.now += SESSION_S
    assert not held.is_held(SESSION_S)
    held.renew(coordinator)
    assert held.is_held(SESSION_S)
    assert coordinator._do_heartbeat is noted
