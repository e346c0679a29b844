"""Tests of the brokers' time: its measurement, changes of the local clock, and the warning."""

import time
from dataclasses import replace

import pytest

from famulus.errors import UnavailableError
from famulus.runtime.broker_clock import EVERY_S, Clock
from tests.support.in_memory.clock import EPOCH_S
from tests.support.in_memory.clock import Clock as Time
from tests.support.in_memory.house import Fetch, House, record


class Broker:
    """Stand-in for a broker that timestamps records with the right time.

    The clock of this machine may be wrong.
    """

    def __init__(self, time_: Time) -> None:
        self.time, self.asked, self.dates, self.is_away = time_, 0, True, False

    async def stamp(self) -> int | None:
        """Return the broker's time in milliseconds, or None if it does not timestamp records."""
        self.asked += 1
        if self.is_away:
            raise UnavailableError("away")
        return round((EPOCH_S + self.time.passed_s) * 1000) if self.dates else None


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Return a broker, with a local clock that is right."""
    return Broker(Time(monkeypatch))


def shift(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set this machine's clock forward by *seconds*."""
    now, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + round(seconds * 10**9))


async def test_a_clock_that_is_wrong_is_told_of(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning has the difference; events are judged by the brokers' time."""
    shift(monkeypatch, -7200)
    clock = Clock(broker.stamp, 60.0)
    assert (clock.ahead_s, clock.words, clock.now_ms()) == (None, "", round(EPOCH_S - 7200) * 1000)
    await clock.measure()
    assert clock.words == "this machine's clock is 7,200 s behind the brokers'"
    assert clock.now_ms() == round(EPOCH_S) * 1000
    [condition] = await clock.look()
    assert (condition.name, condition.is_red) == ("clock", False)
    assert condition.why.startswith(
        "this machine's clock is 7,200 s behind the brokers': set it by NTP"
    )


async def test_a_clock_that_is_set_while_the_worker_runs_is_measured_anew(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is also measured regularly without a reason."""
    clock = Clock(broker.stamp, 60.0)
    await clock.measure()
    assert (await clock.look(), broker.asked) == ([], 1)
    shift(monkeypatch, 3600)
    assert clock.now_ms() == round(EPOCH_S) * 1000
    assert [of.name for of in await clock.look()] == ["clock"]
    assert (clock.words, broker.asked) == (
        "this machine's clock is 3,600 s ahead of the brokers'",
        2,
    )
    shift(monkeypatch, -3600)
    assert (await clock.look(), broker.asked) == ([], 3)
    broker.time.now += EVERY_S + 1
    assert (await clock.look(), broker.asked) == ([], 4)


async def test_a_difference_below_the_limit_is_none(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks of two machines always differ a little."""
    shift(monkeypatch, 30)
    clock = Clock(broker.stamp, 60.0)
    await clock.measure()
    assert await clock.look() == []
    assert clock.ahead_s == pytest.approx(30)


async def test_brokers_that_date_nothing_are_asked_once(broker: Broker) -> None:
    """The topic is older than its setting of broker timestamps, so the local clock counts."""
    broker.dates = False
    clock = Clock(broker.stamp, 60.0)
    await clock.measure()
    broker.time.now += EVERY_S + 1
    assert (await clock.look(), clock.ahead_s, broker.asked) == ([], None, 1)


async def test_a_broker_that_is_away_is_asked_again_later(broker: Broker) -> None:
    """The next measurement after EVERY_S succeeds."""
    broker.is_away = True
    clock = Clock(broker.stamp, 60.0)
    await clock.measure()
    assert clock.ahead_s is None
    broker.is_away = False
    broker.time.now += EVERY_S + 1
    assert await clock.look() == []
    assert clock.ahead_s == pytest.approx(0, abs=0.001)


async def test_events_are_judged_by_the_brokers_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that is behind, marks would be older than their events.

    Such marks expire early, and a redelivery of their events would not be recognised.
    """
    Time(monkeypatch)
    shift(monkeypatch, -7200)

    async def nothing(_: object) -> None:
        """Handle an event."""

    now_ms = round(EPOCH_S * 1000)
    [processor] = House(nothing, 1, 1, remembers=False).processors
    processor._ties = replace(processor._ties, now_ms=lambda: now_ms)
    processor.receive(Fetch([record(0, "a", now_ms - 1_000), record(1, "b", now_ms + 86_400_000)]))
    assert processor.refill()
    assert processor.in_flight.stream_ms == now_ms
