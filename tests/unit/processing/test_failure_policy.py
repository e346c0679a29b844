"""Tests of failed events: attempts and waits, their end, and the events behind them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from famulus.errors import InvariantError, PermanentError, Reject, TransientError
from famulus.processing.failures.retry_policy import Retry
from famulus.state.changelog import ATTEMPTS, DEAD, row_key
from famulus.state.unit_of_work import current_unit
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Letter, Trial, Try, trials

Make = Callable[..., Trial]
LIMIT_S = 1.0  # time limit of an attempt


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def failure_policy(*errors: Exception | None) -> Callable[[Try], Awaitable[None]]:
    """Return a handler that raises *errors* in turn for `bad`, then the last one forever.

    None among them stands for success.
    """
    left = list(errors)

    async def do(event: Try) -> None:
        if event.name == "bad" and (error := left.pop(0) if len(left) > 1 else left[0]):
            raise error

    return do


async def hang(event: Try) -> None:
    """Suspend forever if the event is `bad`."""
    if event.name == "bad":
        await asyncio.sleep(10**6)


async def swell(event: Try) -> None:
    """Write more than fits into a checkpoint if the event is `bad`."""
    unit = current_unit()
    if event.name == "bad" and unit is not None:
        unit.write(row_key("large"), b"x" * 20_000)


class Kind(NamedTuple):
    """A way to fail: the handler, the times of its calls, and the dead letter."""

    do: Callable[[Try], Awaitable[None]]
    at_s: tuple[float, ...]  # when the attempts begin
    letter: Letter
    options: Mapping[str, Any] = MappingProxyType({})
    value: bytes | None = b""  # of the record; empty means a valid one
    kind: bytes = b"test.Try"


THRICE, ONCE, NEVER = (0, 2, 6), (0,), ()
UNKNOWN = {"on_unknown_type": "dead_letter"}
KINDS = {
    "transient": Kind(
        failure_policy(TransientError()), THRICE, Letter("bad", "exhausted", "work", 3)
    ),
    "connection": Kind(
        failure_policy(ConnectionResetError()), THRICE, Letter("bad", "exhausted", "work", 3)
    ),
    "unclassified": Kind(
        failure_policy(KeyError("x")), THRICE, Letter("bad", "exhausted", "work", 3)
    ),
    "timeout": Kind(hang, (0, 2 + LIMIT_S, 6 + 2 * LIMIT_S), Letter("bad", "timeout", "work", 3)),
    "permanent": Kind(
        failure_policy(PermanentError()), ONCE, Letter("bad", "permanent", "work", 1)
    ),
    "rejected": Kind(failure_policy(Reject("no")), ONCE, Letter("bad", "rejected", "work", 1)),
    "unclassified, permanent": Kind(
        failure_policy(KeyError("x")),
        ONCE,
        Letter("bad", "permanent", "work", 1),
        {"unclassified": "permanent"},
    ),
    "too large": Kind(swell, ONCE, Letter("bad", "permanent", "work", 1)),
    "poison": Kind(failure_policy(None), NEVER, Letter("bad", "poison", "", 0), value=b"\xff"),
    "null": Kind(failure_policy(None), NEVER, Letter("bad", "poison", "", 0), value=None),
    "unknown type": Kind(
        failure_policy(None),
        NEVER,
        Letter("bad", "unknown_type", "", 0),
        UNKNOWN,
        kind=b"test.Other",
    ),
}
AGAIN = [name for name, kind in KINDS.items() if len(kind.at_s) > 1]


def trial_of(make: Make, kind: Kind, delays: tuple[float, ...] = (), **options: Any) -> Trial:
    """Return a trial fed with a bad event, one behind it, and one of another key."""
    mine = {name: value for name, value in kind.options.items() if name == "on_unknown_type"}
    policy = {name: value for name, value in kind.options.items() if name == "unclassified"}
    trial = make(stages=len(delays), **mine, **options)
    trial.handler("work", kind.do, timeout_s=LIMIT_S, delays_s=delays, **policy)
    trial.start()
    trial.feed("k:bad", values=None if kind.value == b"" else {"bad": kind.value}, kind=kind.kind)
    trial.feed("k:behind", "other")
    return trial


def times(trial: Trial) -> list[float]:
    """Return when the bad event was tried, in seconds.

    Time limits are checked every twentieth of their length, hence the rounding.
    """
    return [round(call.at_s) for call in trial.calls if call.name == "bad"]


@pytest.mark.parametrize("name", KINDS)
async def test_an_event_that_fails_for_good_is_skipped(make: Make, name: str) -> None:
    """After its attempts the event is a dead letter, and the state keeps nothing of it.

    The next event of its key waits until then.
    """
    kind = KINDS[name]
    trial = trial_of(make, kind)
    await trial.settled(3)
    assert times(trial) == list(kind.at_s)
    assert [call.attempt for call in trial.calls if call.name == "bad"] == list(
        range(1, 1 + len(kind.at_s))
    )
    assert trial.letters == [kind.letter]
    behind = next(call.at_s for call in trial.calls if call.name == "behind")
    assert round(behind) == (kind.at_s[-1] if kind.at_s else 0) + LIMIT_S * (name == "timeout")
    assert (
        trial.count("work", "bad"),
        trial.count("work", "behind"),
        trial.count("work", "other"),
    ) == (0, 1, 1)
    assert (trial.rows(ATTEMPTS), trial.rows(DEAD), trial.marks) == (0, 0, 2)
    noted = [value is not None for key, value in trial.written if key.startswith(ATTEMPTS)]
    assert noted == ([True, True, False] if len(kind.at_s) > 1 else [])
    counts = trial.counts
    assert (counts["handled"], counts["dead_lettered"]) == (2, 1)
    assert (counts["retried"], counts["postponed"]) == (max(len(kind.at_s) - 1, 0), 0)
    assert trial.faults == []


@pytest.mark.parametrize("name", KINDS)
async def test_what_comes_behind_a_dead_letter_is_parked(make: Make, name: str) -> None:
    """Later events of the key are parked in order, and other keys go on.

    Each dead letter is a row, so that it is known after a restart.
    """
    kind = KINDS[name]
    trial = trial_of(make, kind, on_dead_letter="sequence")
    await trial.settled(3)
    assert times(trial) == list(kind.at_s)
    assert trial.letters == [kind.letter, Letter("behind", "parked", "", 0)]
    assert trial.names().count("behind") == 0
    assert (trial.rows(ATTEMPTS), trial.rows(DEAD), trial.marks) == (0, 2, 1)
    assert (trial.counts["handled"], trial.counts["dead_lettered"]) == (1, 2)
    await trial.kill()
    trial.start()
    trial.feed("k:later", "other:another")
    await trial.settled(5)
    assert trial.letters[2:] == [Letter("later", "parked", "", 0)]
    assert (trial.names().count("later"), trial.names().count("another")) == (0, 1)


@pytest.mark.parametrize("name", KINDS)
async def test_a_partition_halts(make: Make, name: str) -> None:
    """Nothing is dead-lettered, nothing more is started, and no offset is finished.

    A restart tries the event once more.
    """
    kind = KINDS[name]
    trial = trial_of(make, kind, on_dead_letter="halt", concurrency=1)
    await trial.until(lambda: bool(trial.processor.halted))
    trial.feed("later")
    await asyncio.sleep(100)
    assert "t-0 offset 0 failed for good" in trial.processor.halted
    assert (times(trial), trial.letters) == (list(kind.at_s), [])
    assert {"later", "behind"}.isdisjoint(trial.names())
    assert not trial.processor.checkpointed_offset
    assert trial.counts["dead_lettered"] == 0
    await trial.kill()
    trial.start()
    await trial.until(lambda: bool(trial.processor.halted))
    assert len(times(trial)) == len(kind.at_s) + bool(kind.at_s)


@pytest.mark.parametrize("name", KINDS)
async def test_retry_topics_are_for_what_may_work_later(make: Make, name: str) -> None:
    """One attempt follows each wait, never earlier, and the key goes on meanwhile.

    The dead letter is of the failed handler alone.
    """
    kind = KINDS[name]
    trial = trial_of(make, kind, (60.0, 300.0))
    is_postponed = name in AGAIN
    await trial.until(lambda: len(trial.letters) == 1)
    await trial.settled(3)
    first = kind.at_s[-1] + LIMIT_S * (name == "timeout") if kind.at_s else 0
    second = first + 60 + LIMIT_S * (name == "timeout")
    assert times(trial) == [*kind.at_s, *([first + 60, second + 300] if is_postponed else [])]
    assert trial.letters == [kind.letter._replace(attempts=5) if is_postponed else kind.letter]
    assert [call.attempt for call in trial.calls if call.name == "bad"] == list(
        range(1, 1 + len(times(trial)))
    )
    behind = next(call.at_s for call in trial.calls if call.name == "behind")
    assert behind <= first + 1
    assert trial.counts["postponed"] == (2 if is_postponed else 0)
    assert trial.count("work", "bad") == 0
    assert (trial.rows(ATTEMPTS), trial.rows(DEAD)) == (0, 0)
    for back in trial.processor.backs.of.values():
        assert back.offsets.in_flight == 0


async def test_what_succeeds_in_a_retry_topic_is_handled_once(make: Make) -> None:
    """A kill afterwards, and reading its record again, change nothing."""
    trial = make(stages=2)
    trial.handler("work", failure_policy(*[TransientError()] * 4, None), delays_s=(60.0, 300.0))
    trial.start()
    trial.feed("k:bad")
    await trial.until(lambda: len(trial.calls) == 5)
    await trial.until(lambda: trial.count("work", "bad") == 1)
    await trial.kill()
    trial.finished_back.clear()
    trial.start()
    await asyncio.sleep(400)
    assert len(trial.calls) == 5
    assert trial.count("work", "bad") == 1
    assert (trial.letters, trial.rows(ATTEMPTS)) == ([], 0)


@pytest.mark.parametrize(("says", "outcome"), [("ignore", "ignored"), ("fail", "")])
async def test_an_unknown_type_is_ignored_or_ends_the_worker(
    make: Make, says: str, outcome: str
) -> None:
    """The option of the subscription decides."""
    trial = make(on_unknown_type=says)
    trial.handler("work", failure_policy(None))
    trial.start()
    trial.feed("k:bad", kind=b"test.Other")
    await trial.settled(1)
    assert trial.letters == []
    if outcome:
        assert (trial.counts[outcome], trial.marks, trial.faults) == (1, 0, [])
    else:
        assert isinstance(trial.faults[0], InvariantError)
        assert "t-0 offset 0 is of a type that nobody here handles" in str(trial.faults[0])


async def test_attempts_are_as_many_as_the_handler_says(make: Make) -> None:
    trial = make()
    trial.handler("work", failure_policy(TransientError()), Retry(5, 1.0, 3.0, 10.0))
    trial.start()
    trial.feed("k:bad")
    await trial.settled(1)
    assert times(trial) == [0, 1, 4, 13, 23]
    assert trial.letters == [Letter("bad", "exhausted", "work", 5)]
