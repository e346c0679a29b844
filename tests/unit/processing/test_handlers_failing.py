"""Tests of an event with several handlers of which one fails: the others run once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from famulus.errors import PermanentError, TransientError
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.retry_policy import Retry
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import ATTEMPTS, DEAD, row_key
from famulus.state.unit_of_work import current_unit
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Letter, Trial, Try, trials

Make = Callable[..., Trial]
Do = Callable[[Try], Awaitable[None]]
BREAKER = Breaker(failures=2, events=1, window_s=60, wait_initial_s=5, wait_max_s=5)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def failure_policy(times: int, error: Callable[[], Exception] = TransientError) -> Do:
    """Return a handler that fails *times* times."""
    left = times

    async def do(event: Try) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise error()

    return do


async def say(event: Try) -> None:
    """Publish a record with the handler's name in its id."""
    unit = current_unit()
    assert unit is not None
    unit.publish(
        ProducerRecord("out", None, event.name.encode(), [("ce_id", f"k:{unit.handler}".encode())])
    )
    await asyncio.sleep(0.1)


def published(trial: Trial) -> int:
    """Return the number of records that handlers have published."""
    return sum(record.topic == "out" for record in trial.sent)


async def test_only_the_one_that_failed_runs_again(make: Make) -> None:
    """The effects of the others are kept and written together with its own."""
    trial = make()
    fail = failure_policy(2)

    async def say_and_fail(event: Try) -> None:
        await say(event)
        await fail(event)

    for name, do in [("first", say), ("second", say_and_fail), ("third", say)]:
        trial.handler(name, do)
    trial.start()
    trial.feed("k:e")
    await trial.until(lambda: len(trial.calls) == 2)
    await asyncio.sleep(1)
    assert published(trial) == 0
    assert trial.count("first", "e") == 0
    await trial.settled(1)
    assert [(call.handler, call.attempt) for call in trial.calls] == [
        ("first", 1),
        ("second", 1),
        ("second", 2),
        ("second", 3),
        ("third", 1),
    ]
    assert [trial.count(name, "e") for name in ("first", "second", "third")] == [1, 1, 1]
    assert published(trial) == 3
    assert (trial.letters, trial.marks, trial.rows(ATTEMPTS)) == ([], 1, 0)


async def test_each_has_attempts_of_its_own(make: Make) -> None:
    trial = make()
    trial.handler("first", failure_policy(2))
    trial.handler("second", failure_policy(2))
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert [(call.handler, call.attempt) for call in trial.calls] == [
        ("first", 1),
        ("first", 2),
        ("first", 3),
        ("second", 1),
        ("second", 2),
        ("second", 3),
    ]
    assert trial.letters == []


async def test_a_dead_letter_takes_back_what_the_others_did(make: Make) -> None:
    """The dead letter stands for the whole event, so that a redrive runs all handlers."""
    trial = make()
    trial.handler("first", say)
    trial.handler("second", failure_policy(1, PermanentError))
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert trial.letters == [Letter("e", "permanent", "second", 1)]
    assert (trial.count("first", "e"), published(trial), trial.marks) == (0, 0, 0)
    trial.redrive("e")
    await trial.until(lambda: trial.count("second", "e") == 1)
    assert (trial.count("first", "e"), published(trial), trial.marks) == (1, 1, 1)


async def test_one_goes_to_a_retry_topic_alone(make: Make) -> None:
    """The others have finished with the event by then.

    Its dead letter is for that handler alone, and a redrive runs only that one.
    """
    trial = make(stages=1)
    trial.handler("first", say)
    trial.handler("second", failure_policy(4), delays_s=(60.0,))
    trial.handler("third", say)
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert [trial.count(name, "e") for name in ("first", "second", "third")] == [1, 0, 1]
    assert published(trial) == 2
    await trial.until(lambda: bool(trial.letters))
    assert trial.letters == [Letter("e", "exhausted", "second", 4)]
    for _ in range(2):
        trial.redrive("e")
        await trial.until(lambda: trial.count("second", "e") == 1)
        await asyncio.sleep(1)
    assert (trial.names("first"), trial.names("second")) == (["e"], ["e"] * 5)
    assert published(trial) == 2
    assert (trial.rows(ATTEMPTS), trial.rows(DEAD)) == (0, 0)


async def test_two_go_to_retry_topics_each_alone(make: Make) -> None:
    trial = make(stages=2)
    trial.handler("first", failure_policy(4), delays_s=(60.0, 300.0))
    trial.handler("second", failure_policy(9), delays_s=(60.0,))
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert trial.counts["postponed"] == 2
    await trial.until(lambda: trial.count("first", "e") == 1)
    assert [call.attempt for call in trial.calls if call.handler == "first"] == [1, 2, 3, 4, 5]
    assert trial.letters == [Letter("e", "exhausted", "second", 4)]


async def test_one_in_a_retry_topic_and_another_one_fails(make: Make) -> None:
    """The dead letter stands for the whole event, and nothing is left in a retry topic."""
    trial = make(stages=1)
    trial.handler("first", failure_policy(3), delays_s=(60.0,))
    trial.handler("second", failure_policy(1, PermanentError))
    trial.start()
    trial.feed("k:e")
    await trial.settled(1)
    assert trial.letters == [Letter("e", "permanent", "second", 1)]
    await asyncio.sleep(100)
    assert len(trial.calls) == 4
    trial.redrive("e")
    await trial.until(lambda: trial.count("second", "e") == 1)
    assert trial.count("first", "e") == 1


async def test_an_event_that_waits_at_a_gate_keeps_what_was_done(make: Make) -> None:
    """The event failed at the open circuit breaker or found it open already.

    In both cases the handlers before it do not run again.
    """
    trial = make(concurrency=10)
    is_away = True

    async def work(event: Try) -> None:
        if is_away:
            raise ConnectionError

    trial.handler("first", say)
    gate = trial.handler("second", work, Retry(3, 0.2), BREAKER).breaker
    trial.start()
    trial.feed(*(f"k{number}:e{number}" for number in range(4)))
    await trial.until(lambda: gate.waiting == 4)
    trial.feed(*(f"l{number}:f{number}" for number in range(4)))
    await trial.until(lambda: gate.waiting == 8)
    is_away = False
    await trial.settled(8)
    assert sorted(trial.names("first")) == sorted(
        [*(f"e{n}" for n in range(4)), *(f"f{n}" for n in range(4))]
    )
    assert all(trial.count("first", name) == 1 for name in trial.names("first"))
    assert published(trial) == 8


async def test_an_event_that_is_undone_begins_anew(make: Make) -> None:
    """After a row conflict the effects of the earlier handlers are undone as well.

    Attempts stay counted.
    """
    trial = make()

    async def touch(event: Try) -> None:
        unit = current_unit()
        assert unit is not None
        shared = row_key("shared")
        seen = int(unit.row(shared) or 0)
        if event.name == "slow":
            await asyncio.sleep(10)
        unit.write(shared, b"%d" % (seen + 1))

    late = failure_policy(1)

    async def fail_first(event: Try) -> None:
        if event.name == "e":
            await late(event)

    trial.handler("first", fail_first)
    trial.handler("second", touch)
    trial.start()
    trial.feed("s:slow", "k:e")
    await trial.settled(2)
    assert [(c.handler, c.attempt) for c in trial.calls if c.name == "e"] == [
        ("first", 1),
        ("first", 2),
        ("second", 1),
        ("first", 2),
        ("second", 1),
    ]
    assert trial.stored[row_key("shared")] == b"2"
    assert [trial.count(name, "e") for name in ("first", "second")] == [1, 1]
