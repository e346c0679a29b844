"""Whether the group still counts on this worker, by what its coordinator's heartbeats were answered."""

import pytest

from famulus.consumer import session as group_session
from famulus.consumer.session import GroupSession

SESSION_S = 45.0


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """What the lease reads."""
        return self.now


class Coordinator:
    """aiokafka's, as far as the lease knows it. *answers* says whether the broker does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.answers = True
        self.takes_s = 0.0

    async def _do_heartbeat(self) -> bool:
        self._clock.now += self.takes_s
        return self.answers


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In the place of the module `time`."""
    made = Clock()
    monkeypatch.setattr(group_session, "time", made)
    return made


async def test_it_is_held_as_long_as_heartbeats_are_answered(clock: Clock) -> None:
    """From when each was sent: an answer that was long on its way says nothing of now."""
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
    """Every rebalance renews it."""
    held, coordinator = GroupSession(), Coordinator(clock)
    held.renew(coordinator)
    noted = coordinator._do_heartbeat
    clock.now += SESSION_S
    assert not held.is_held(SESSION_S)
    held.renew(coordinator)
    assert held.is_held(SESSION_S)
    assert coordinator._do_heartbeat is noted
