"""Tests of handler timeouts: slow attempts are cancelled, and their task goes on unaffected."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from famulus.processing.failures.retry_policy import Retry
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Letter, Trial, Try, trials

Make = Callable[..., Trial]
ONCE = Retry(1)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def cancelling() -> int:
    """Return how often the current task was cancelled."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def sleep(event: Try) -> None:
    """Sleep for as many seconds as the name of the event says."""
    await asyncio.sleep(float(event.name))


async def test_a_handler_that_never_ends_is_given_up(make: Make) -> None:
    """The event is dead-lettered after its attempts and occupies only one task.

    The task goes on with the next record and has no pending cancellation.
    """
    seen: list[tuple[str, int, object]] = []

    async def work(event: Try) -> None:
        seen.append((event.name, cancelling(), asyncio.current_task()))
        if event.name == "endless":
            await asyncio.Event().wait()
        await asyncio.sleep(1)
        seen.append((event.name, cancelling(), asyncio.current_task()))

    trial = make(concurrency=1)
    trial.handler("work", work, timeout_s=10.0)
    trial.start()
    trial.feed("k:endless", "k:after", "other")
    await trial.settled(3)
    assert trial.letters == [Letter("endless", "timeout", "work", 3)]
    assert [(name, count) for name, count, _ in seen if name == "endless"] == [("endless", 0)] * 3
    assert {count for _, count, _ in seen} == {0}
    assert len({task for _, _, task in seen}) == 1
    assert (trial.counts["handled"], trial.faults) == (2, [])
    assert dict(trial.sent[0].headers)["__streams.errors.message"] == b"not done after 10 s"


@pytest.mark.parametrize("ends", ["well", "badly"])
async def test_one_that_makes_something_else_of_it_ends_as_it_says(make: Make, ends: str) -> None:
    """A handler that catches the cancellation may still succeed or fail.

    The next handler of the event has its own time limit and may use task groups.
    """
    counts: list[int] = []

    async def stubborn(event: Try) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
            if ends == "badly":
                raise ValueError from None

    async def next_one(event: Try) -> None:
        counts.append(cancelling())
        with pytest.raises(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(100)
        await asyncio.sleep(1000 if event.name == "endless" else 0)

    trial = make(concurrency=1)
    trial.handler("stubborn", stubborn, ONCE, timeout_s=10.0)
    trial.handler("next", next_one, ONCE, timeout_s=10.0)
    trial.start()
    trial.feed("a:fine", "b:endless", "c:fine")
    await trial.settled(3)
    if ends == "well":
        assert trial.letters == [Letter("endless", "timeout", "next", 1)]
        assert counts == [0, 0, 0]
    else:
        assert [(letter.kind, letter.handler) for letter in trial.letters] == [
            ("exhausted", "stubborn")
        ] * 3
    assert trial.clock.passed_s < 60


async def fail() -> None:
    """Raise an error after a tenth of a second."""
    await asyncio.sleep(0.1)
    raise ValueError


@pytest.mark.parametrize("first_s", [0.0, 4.0, 9.0])
@pytest.mark.parametrize("limit_s", [0.0, 20.0, 10.0])
async def test_the_limit_of_the_second_handler_counts_from_its_own_start(
    make: Make, first_s: float, limit_s: float
) -> None:
    """The time and the limit of the first handler have no effect on it."""
    trial = make()

    async def first(event: Try) -> None:
        if first_s:
            await asyncio.sleep(first_s)

    trial.handler("first", first, ONCE, timeout_s=limit_s)
    trial.handler("second", sleep, ONCE, timeout_s=10.0)
    trial.start()
    trial.feed("a:9", "b:11")
    await trial.settled(2)
    assert trial.letters == [Letter("11", "timeout", "second", 1)]
    assert first_s + 10 <= trial.clock.passed_s + 0.55 < first_s + 11.6


async def test_each_attempt_has_all_of_its_time(make: Make) -> None:
    """Waits between attempts and other records of the same task do not reduce it."""
    trial = make(concurrency=1)
    trial.handler("work", sleep, Retry(2, 0.0), timeout_s=10.0)
    trial.start()
    trial.feed("a:9", "b:11", "c:9", "d:8")
    await trial.settled(4)
    assert trial.letters == [Letter("11", "timeout", "work", 2)]
    assert (trial.names().count("11"), trial.counts["handled"]) == (2, 3)


async def test_no_limit_is_for_ever(make: Make) -> None:
    """The limit of 0 means none, next to a handler that has one."""
    trial = make()
    trial.handler("other", lambda _: asyncio.sleep(0), timeout_s=0.2)
    trial.handler("work", sleep, timeout_s=0.0)
    trial.start()
    trial.feed("a:400")
    await trial.settled(1)
    assert trial.letters == []


async def test_a_handlers_own_time_limit_is_its_own(make: Make) -> None:
    """Both limits may end at the same moment: the event fails once, and the task goes on."""
    trial = make(concurrency=1)

    async def work(event: Try) -> None:
        async with asyncio.timeout(float(event.name)):
            await asyncio.sleep(100)

    trial.handler("work", work, Retry(2, 1.0), timeout_s=10.0)
    trial.start()
    trial.feed("a:3", "b:10", "c:10.5", "d:12")
    await trial.settled(4)
    assert [letter.kind for letter in trial.letters if letter.name == "3"] == ["exhausted"]
    assert [letter.kind for letter in trial.letters if letter.name == "12"] == ["timeout"]
    assert len(trial.letters) == 4
    assert all(letter.attempts == 2 for letter in trial.letters)


@pytest.mark.parametrize("after_s", [5.0, 10.5, 17.0])
@pytest.mark.parametrize("is_stubborn", [False, True])
async def test_a_crew_ends_whatever_was_cancelled_before(
    make: Make, *, after_s: float, is_stubborn: bool
) -> None:
    """A past timeout must not let a task take the pool's stop for another timeout."""
    trial = make(concurrency=2)
    ended: list[str] = []

    async def work(event: Try) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            ended.append(event.name)
            if is_stubborn and len(ended) <= 2:
                raise ValueError from None
            raise

    trial.handler("work", work, Retry(3, 1.0), timeout_s=10.0)
    trial.start()
    trial.feed("a:one", "b:two")
    await asyncio.sleep(after_s)
    async with asyncio.timeout(5):
        await trial.task_pool.stop()
    assert all(hand.task is not None and hand.task.done() for hand in trial.task_pool.slots)
    assert (bool(ended), trial.faults) == (True, [])


async def test_a_limit_and_the_end_in_one_moment_are_the_end(make: Make) -> None:
    """The handler sees both cancellations as one."""
    trial = make(concurrency=1)
    trial.handler("work", sleep, Retry(3, 1.0), timeout_s=10.0)
    trial.start()
    trial.feed("a:100")
    await trial.until(lambda: bool(trial.calls))
    [hand] = trial.task_pool.slots
    hand.unit.is_timed_out = True  # type: ignore[union-attr]
    assert hand.task is not None
    hand.task.cancel()
    async with asyncio.timeout(5):
        await trial.task_pool.stop()
    assert hand.task.cancelled()
