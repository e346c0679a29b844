"""Tests of the watchdog, with planted faults: a stalled worker is never reported as healthy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from famulus.consumer.watchdog import Stalls, Waiting, Watchdog
from famulus.errors import InvariantError, TransientError
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.retry_policy import Retry
from famulus.processing.task_pool import TaskPool
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Trial, Try, trials

Make = Callable[..., Trial]
PLACE = TP("t", 0)
BREAKER = Breaker(failures=1, events=1, window_s=60, wait_initial_s=200, wait_max_s=200)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def watch(trial: Trial, unfetched: Callable[[TP], int] = lambda _: 0) -> Watchdog:
    """Start a watchdog on a trial, and return it."""
    assigned: Any = SimpleNamespace(processors={PLACE: trial.processor}, task_pool=trial.task_pool)
    watchdog = Watchdog(
        assigned, unfetched, lambda: True, on_fault=trial.fault, stalled_s=30, ends_s=90, send_s=120
    )
    watchdog.start()
    return watchdog


async def ends(trial: Trial, watchdog: Watchdog, words: str) -> None:
    """Assert that the partition is stalled after 30 seconds, and the worker ends after 90."""
    await asyncio.sleep(29)
    assert (watchdog.stalled, trial.faults) == ([], [])
    await asyncio.sleep(12)
    [why] = watchdog.stalled
    assert why.startswith("t-0 stands still for ")
    assert words in why
    assert trial.faults == []
    await asyncio.sleep(65)
    assert isinstance(trial.faults[0], InvariantError)
    assert words in str(trial.faults[0])
    watchdog.stop()


async def nothing(event: Try) -> None:
    """Do nothing."""


async def test_a_duty_that_nobody_has_is_noticed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task pool assumes that it has a leader, but no task looks for work."""
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    trial.task_pool._has_leader = True
    trial.feed("a:1", "b:2")
    await ends(trial, watch(trial), "to be handled")


async def test_a_flow_that_nobody_wakes_is_noticed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched records do not reach the task pool."""
    monkeypatch.setattr(TaskPool, "wake", lambda *_: None)
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    trial.feed("a:1")
    await ends(trial, watch(trial), "to be handled")


async def test_a_task_that_died_with_an_event_in_hand_is_noticed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lane stays closed forever."""
    monkeypatch.setattr(TaskPool, "_check_end", lambda *_: None)
    trial = make()

    async def waits(event: Try) -> None:
        await asyncio.sleep(1000)

    trial.handler("work", waits)
    trial.start()
    trial.feed("a:1")
    await trial.until(lambda: bool(trial.calls))
    watchdog = watch(trial)
    trial.task_pool._is_stopping = True
    for hand in trial.task_pool.slots:
        assert hand.task is not None
        if hand.is_held:
            assert hand.unit is not None
            hand.unit.is_stopped = True
        hand.task.cancel()
    monkeypatch.setattr(trial.processor.lanes, "finish", lambda _: None)
    await ends(trial, watchdog, "no task carries them")


async def test_settling_that_begins_never_is_noticed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events have ended, and nothing makes their effects durable."""
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    monkeypatch.setattr(trial.processor.checkpoint_loop, "start", lambda: None)
    trial.feed("a:1")
    await ends(trial, watch(trial), "nothing settles them")


async def test_settling_that_is_never_answered_is_red_and_ends_after_its_own_limit(
    make: Make,
) -> None:
    """A silent broker has `DeliveryTimeoutMs` before the producer gives up."""
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    trial.may_settle.clear()
    watchdog = watch(trial)
    trial.feed("a:1")
    await asyncio.sleep(40)
    assert "has not taken" in watchdog.stalled[0]
    await asyncio.sleep(160)
    assert trial.faults == []
    await asyncio.sleep(20)
    assert len(trial.faults) == 1
    watchdog.stop()


async def test_settling_that_somebody_cancels_ends_the_worker(make: Make) -> None:
    """The log may or may not have the checkpoint, and none is ever written twice."""
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    trial.may_settle.clear()
    trial.feed("a:1")
    await trial.until(lambda: trial.processor.checkpoint_loop.group_mark is not None)
    assert trial.processor.checkpoint_loop.task is not None
    trial.processor.checkpoint_loop.task.cancel()
    await trial.until(lambda: bool(trial.faults))
    assert "could not be settled" in str(trial.faults[0])


async def test_records_that_nobody_fetches_are_noticed(make: Make) -> None:
    """The fetcher is dead or is never polled."""
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    await ends(trial, watch(trial, lambda _: 7), "7 records stand in the log")


async def test_what_has_a_reason_is_no_stall(make: Make) -> None:
    """The reasons are slow handlers, back-off, a pause, refused sends and a halt."""
    trial = make(concurrency=2, on_dead_letter="halt")

    async def do(event: Try) -> None:
        if event.name == "slow":
            await asyncio.sleep(200)
        if event.name == "again" and trial.names().count("again") == 1:
            raise TransientError
        if event.name == "dead":
            raise ValueError

    trial.handler("work", do, Retry(2, 200, wait_max_s=500), permanent=(ValueError,))
    trial.start()
    watchdog = watch(trial)

    async def stays_green(seconds: float) -> None:
        for _ in range(int(seconds / 5)):
            await asyncio.sleep(5)
            assert (watchdog.stalled, trial.faults) == ([], [])

    trial.feed("a:slow", "b:slow", "c:1", "a:2")  # two tasks, both occupied
    await stays_green(195)
    await trial.settled(4)
    trial.feed("k:again", "k:behind")
    await stays_green(195)
    await trial.settled(6)
    trial.processor.pause("somebody wants it")
    trial.feed("k:3")
    await stays_green(120)
    trial.processor.pause("")
    await trial.settled(7)
    trial.processor.checkpoint_loop.unsent = "Kafka refuses it"
    trial.may_settle.clear()
    trial.feed("k:4")
    await stays_green(120)
    trial.processor.checkpoint_loop.unsent = ""
    trial.may_settle.set()
    await trial.settled(8)
    trial.feed("k:dead", "k:behind")
    await stays_green(300)
    assert trial.processor.halted
    watchdog.stop()


async def test_events_that_wait_at_a_shut_gate_are_no_stall(make: Make) -> None:
    """Their handler's dependency is unavailable, which `/readyz` reports."""
    trial = make()

    async def away(event: Try) -> None:
        raise TransientError

    trial.handler("work", away, breaker=BREAKER)
    trial.start()
    watchdog = watch(trial)
    trial.feed("a:1", "b:2", "a:3")
    await asyncio.sleep(400)
    assert (watchdog.stalled, trial.faults) == ([], [])
    watchdog.stop()


async def test_a_busy_partition_is_never_stalled(make: Make) -> None:
    """An event that ends between two looks is enough."""
    trial = make(concurrency=1)

    async def slow(event: Try) -> None:
        await asyncio.sleep(4)

    trial.handler("work", slow)
    trial.start()
    watchdog = watch(trial)
    trial.feed(*(f"k{number}:{number}" for number in range(60)))
    for _ in range(50):
        await asyncio.sleep(4)
        assert watchdog.stalled == []
    watchdog.stop()


async def test_a_process_that_was_frozen_is_not_ended_for_that(make: Make) -> None:
    """The time while it was frozen does not count."""
    trial = make()
    trial.handler("work", nothing)
    trial.start()
    trial.task_pool._has_leader = True
    watchdog = watch(trial)
    trial.feed("a:1")
    await asyncio.sleep(6)
    trial.clock.now += 3600
    await asyncio.sleep(6)
    assert (watchdog.stalled, trial.faults) == ([], [])
    trial.task_pool._has_leader = False
    trial.task_pool.wake(trial.processor)
    await trial.settled(1)
    watchdog.stop()


@given(looks=st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 3)), min_size=1, max_size=60))
def test_only_what_never_changes_is_stalled(looks: list[tuple[float, int]]) -> None:
    """The time since the last change decides.

    A mark of 0 means that nothing waits.
    """
    stalls, since = Stalls(30, 90), 0.0
    before = 0
    for passed_s, mark in looks:
        since = since + passed_s if mark and mark == before else 0.0
        before = mark
        stalls.look(passed_s, {PLACE: Waiting("why", mark)} if mark else {})
        assert bool(stalls.stalled) == (since >= 30)
        assert stalls.is_hopeless == (since >= 90)
