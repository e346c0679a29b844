"""Tests of circuit breakers in the pipeline: outages and floods of dead letters."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from famulus.config import DeadLetterConfig
from famulus.errors import HandlerTimeoutError, TransientError
from famulus.processing.failures.circuit_breaker import CLOSED, Breaker
from famulus.processing.failures.retry_policy import Retry
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Letter, Trial, Try, trials

Make = Callable[..., Trial]
BREAKER = Breaker(failures=4, events=3, ratio=0.5, window_s=60, wait_initial_s=5, wait_max_s=20)
SHORT = Retry(3, 0.2)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


class Outage:
    """A handler that fails while *is_on*, as if its dependency were unavailable.

    Events whose names begin with `bad` fail always.
    """

    def __init__(self, error: Callable[[], Exception] = ConnectionRefusedError) -> None:
        self.is_on = True
        self.order: dict[str, list[str]] = defaultdict(list)
        self._error = error

    async def __call__(self, event: Try) -> None:
        """Record the event's name, or raise the error."""
        await asyncio.sleep(0)
        if event.name.startswith("bad") or self.is_on:
            raise self._error()
        self.order[event.key].append(event.name)


@pytest.mark.parametrize(
    "error", [TransientError, ConnectionRefusedError, TimeoutError, HandlerTimeoutError]
)
async def test_an_outage_uses_up_no_attempts(make: Make, error: Callable[[], Exception]) -> None:
    """After a few failures only one event at a time is tried, each time another one.

    The wait between probes doubles up to its limit. When a probe succeeds, all events go on.
    """
    trial, outage = make(concurrency=10), Outage(error)
    gate = trial.handler("work", outage, SHORT, BREAKER).breaker
    trial.start()
    trial.feed(*(f"k{number % 20}:e{number}" for number in range(200)))
    await trial.until(lambda: gate.state is not CLOSED and trial.processor.lanes.resting == 20)
    opened, at = len(trial.calls), trial.calls[-1].at_s
    assert opened <= 20
    assert "what a handler needs seems to be away: h.work: 4 of the last 4 failed" in gate.why
    await asyncio.sleep(100)
    probes = trial.calls[opened:]
    assert [round(call.at_s - at) for call in probes] == [5, 15, 35, 55, 75, 95]
    assert len({call.name for call in probes}) == 6
    outage.is_on = False
    await trial.settled(200)
    assert (gate.state, gate.waiting, gate.why) == (CLOSED, 0, "")
    assert outage.order == {
        f"k{key}": [f"e{number}" for number in range(key, 200, 20)] for key in range(20)
    }
    assert (trial.letters, trial.counts["handled"], max(call.attempt for call in trial.calls)) == (
        [],
        200,
        2,
    )


async def test_other_errors_are_no_outage(make: Make) -> None:
    """An unclassified error says nothing about other events."""
    trial = make(concurrency=10)
    gate = trial.handler("work", Outage(KeyError), SHORT, BREAKER).breaker
    trial.start()
    trial.feed(*(f"k{number}" for number in range(20)))
    await trial.settled(20)
    assert gate.state is CLOSED
    assert len(trial.letters) == 20


async def test_one_bad_event_does_not_shut_the_gate(make: Make) -> None:
    trial, outage = make(), Outage()
    outage.is_on = False
    gate = trial.handler("work", outage, Retry(30, 0.1, 1.0), BREAKER).breaker
    trial.start()
    trial.feed("k:bad")
    await trial.settled(1)
    assert gate.state is CLOSED
    assert trial.letters == [Letter("bad", "exhausted", "work", 30)]


async def test_an_outage_after_a_single_failure_is_one(make: Make) -> None:
    """Successes between an early failure and the outage do not hide it, and few keys are enough."""
    trial, outage = make(), Outage()
    outage.is_on = False
    gate = trial.handler("work", outage, SHORT, BREAKER).breaker
    trial.start()
    trial.feed("k:bad", *(f"k{number}" for number in range(900)))
    await trial.settled(901)
    letters = len(trial.letters)
    outage.is_on = True
    trial.feed(*(f"l{number % 4}:e{number}" for number in range(50)))
    await trial.until(lambda: gate.state is not CLOSED)
    await asyncio.sleep(30)
    assert len(trial.letters) == letters


async def test_a_probe_that_takes_long_is_the_only_one(make: Make) -> None:
    """The probe takes longer than the breaker waits before the next one."""
    trial, outage = make(), Outage()
    slow: list[float] = []

    async def work(event: Try) -> None:
        if gate.state is not CLOSED:
            slow.append(trial.clock.passed_s)
            await asyncio.sleep(30)
        await outage(event)

    gate = trial.handler("work", work, SHORT, BREAKER, timeout_s=60.0).breaker
    trial.start()
    trial.feed(*(f"k{number}" for number in range(20)))
    await trial.until(lambda: gate.state is not CLOSED and bool(slow))
    await asyncio.sleep(200)
    assert [round(at - slow[0]) for at in slow] == [0, 40, 90, 140, 190]


@pytest.mark.parametrize("error", [KeyError, ConnectionRefusedError])
async def test_a_probe_that_fails_for_itself_leaves_the_gate_to_another(
    make: Make, error: type[Exception]
) -> None:
    """No event waits forever because of the outcome of a probe."""
    trial, outage = make(concurrency=10), Outage()

    async def work(event: Try) -> None:
        if not outage.is_on and event.key.encode() == first:
            raise error
        await outage(event)

    gate = trial.handler("work", work, Retry(2, 0.2), BREAKER, timeout_s=120.0).breaker
    trial.start()
    trial.feed(*(f"k{number}" for number in range(20)))
    await trial.until(lambda: gate.state is not CLOSED and gate.waiting == 20)
    first = next(iter(trial.processor._resting._of.values()))[0][1].key
    outage.is_on = False
    await trial.settled(20)
    assert trial.clock.passed_s < 60
    assert trial.counts["handled"] == 20 - len(trial.letters)
    assert {letter.name for letter in trial.letters} <= {(first or b"").decode()}


async def test_an_event_that_comes_when_nobody_waits_is_the_probe(make: Make) -> None:
    """Nothing waits after all failed events were dead-lettered or their partition was revoked."""
    trial, outage = make(concurrency=10), Outage()
    gate = trial.handler("work", outage, SHORT, BREAKER).breaker
    trial.start()
    trial.feed(*(f"k{number}" for number in range(10)))
    await trial.until(lambda: gate.waiting == 10)
    assert await trial.processor.close(5)
    assert gate.waiting == 0
    await trial.kill()
    await asyncio.sleep(60)
    outage.is_on = False
    trial.start()
    await trial.settled(10)
    assert gate.state is CLOSED
    assert trial.counts["handled"] == 10


# Too many dead letters.

FLOOD = Breaker(5, 1, 0.5, 60.0, 5, wait_initial_s=5, wait_max_s=20)


def counting(outage: Outage) -> Callable[[Try], Awaitable[None]]:
    """Return a handler that raises errors of its own, which are no outage."""

    async def do(event: Try) -> None:
        try:
            await outage(event)
        except ConnectionRefusedError:
            raise ValueError("wrong") from None

    return do


async def test_a_flood_of_dead_letters_is_stopped(make: Make) -> None:
    """After a run of dead letters no more are written, and one event at a time is tried.

    A probe runs all handlers of its event. When one succeeds, all events are handled.
    """
    trial, outage = make(concurrency=10, flood=FLOOD), Outage()
    trial.handler("before", lambda _: asyncio.sleep(0), SHORT)
    trial.handler("work", counting(outage), SHORT)
    trial.start()
    trial.feed(*(f"k{number % 20}:e{number}" for number in range(60)))
    flood = trial.pipeline.failure_policy.flood
    await trial.until(lambda: flood.state is not CLOSED)
    await asyncio.sleep(100)
    assert len(trial.letters) == 4
    assert "too many" in flood.why or "flood" in flood.why
    outage.is_on = False
    await trial.settled(60)
    assert trial.clock.passed_s < 160
    assert (flood.state, flood.waiting) == (CLOSED, 0)
    dead = {letter.name for letter in trial.letters}
    assert len(dead) == 4
    for number in range(60):
        kept = (trial.count("before", f"e{number}"), trial.count("work", f"e{number}"))
        assert kept == ((0, 0) if f"e{number}" in dead else (1, 1))
    assert all(
        names == sorted(names, key=lambda name: int(name[1:])) for names in outage.order.values()
    )


async def test_a_success_beside_the_flood_does_not_open_the_gate(make: Make) -> None:
    """Only the success of an event that had failed ends the flood."""
    trial, outage = make(concurrency=10, flood=FLOOD), Outage()
    outage.is_on = False
    trial.handler("work", counting(outage), SHORT)
    trial.start()
    trial.feed(*(f"k{number}:bad{number}" for number in range(20)))
    await trial.until(lambda: trial.pipeline.failure_policy.flood.state is not CLOSED)
    trial.feed(*(f"l{number}" for number in range(20)))
    await asyncio.sleep(100)
    assert trial.counts["handled"] == 20
    assert len(trial.letters) == 4


SPOILT = {f"bad{number}": b"\xff" for number in range(40)}
UNREADABLE = [
    ("poison", {"values": SPOILT}, {}),
    ("unknown_type", {"kind": b"test.Other"}, {"on_unknown_type": "dead_letter"}),
]


@pytest.mark.parametrize(
    ("name", "spoil", "options"), UNREADABLE, ids=[kind for kind, *_ in UNREADABLE]
)
async def test_a_producer_that_changed_is_stopped_until_its_events_can_be_read(
    make: Make, name: str, spoil: dict[str, Any], options: dict[str, Any]
) -> None:
    """After a run of poison no more dead letters are written, and one event at a time is tried.

    As soon as one can be decoded, all are handled.
    """
    trial = make(concurrency=10, poison=FLOOD, **options)
    trial.handler("work", lambda _: asyncio.sleep(0), SHORT)
    trial.start()
    trial.feed(*(f"k{number % 3}:good{number}" for number in range(6)))
    trial.feed(*(f"k{number % 3}:bad{number}" for number in range(20)), **spoil)
    gate = trial.pipeline.failure_policy.poison
    await trial.until(lambda: gate.state is not CLOSED)
    await asyncio.sleep(100)
    stopped = [letter.kind for letter in trial.letters]
    assert stopped == [name] * 4
    assert "poison: t: 5 of the last 5 failed" in gate.why
    assert trial.pipeline.failure_policy.open_breakers == [gate.why]
    assert trial.counts["handled"] == 6
    for record in trial.source[6:]:  # as if a newer version could decode them
        number = record.offset - 6
        record.headers = [("ce_id", b"e%d" % number), ("ce_type", b"test.Try")]
        record.value = b'{"key":"k","name":"bad%d"}' % number
    await trial.settled(26)
    assert trial.letters[4:] == []
    assert (trial.counts["handled"], trial.counts["dead_lettered"]) == (22, 4)
    assert (gate.state, gate.waiting, trial.pipeline.failure_policy.open_breakers) == (
        CLOSED,
        0,
        [],
    )
    handled = [
        int(call.name.removeprefix("bad")) for call in trial.calls if call.name.startswith("bad")
    ]
    for key in range(3):
        of_key = [number for number in handled if number % 3 == key]
        assert of_key == sorted(of_key)
    assert len(set(handled)) == len(handled) == 16


async def test_a_handler_that_fails_for_what_was_read_lets_the_others_be_read(make: Make) -> None:
    """A probe that can be decoded closes the poison breaker, even if its handler fails."""
    trial = make(concurrency=10, poison=FLOOD)
    trial.handler("work", counting(Outage()), Retry(1))
    trial.start()
    trial.feed(*(f"k:bad{number}" for number in range(20)), values=SPOILT)
    await trial.until(lambda: trial.pipeline.failure_policy.poison.state is not CLOSED)
    for record in trial.source:
        record.value = b'{"key":"k","name":"bad%d"}' % record.offset
    await trial.settled(20)
    assert Counter(letter.kind for letter in trial.letters) == {"poison": 4, "exhausted": 16}


async def test_single_poison_among_good_events_stops_nothing(make: Make) -> None:
    """Four of five events may be poison as long as some are handled in between."""
    trial = make(poison=replace(FLOOD, ratio=0.95))
    trial.handler("work", lambda _: asyncio.sleep(0), SHORT)
    trial.start()
    names = [f"k:bad{n}" if n % 5 else f"k:good{n}" for n in range(200)]
    trial.feed(*names, values={f"bad{n}": b"\xff" for n in range(200)})
    await trial.settled(200)
    assert (trial.counts["handled"], len(trial.letters)) == (40, 160)
    assert trial.pipeline.failure_policy.poison.state is CLOSED


async def test_parked_and_redriven_letters_do_not_count_as_a_changed_producer(make: Make) -> None:
    """A parked event was stopped by another one, and a redrive was asked for by an operator."""
    trial = make(poison=FLOOD, on_dead_letter="sequence")
    trial.handler("work", lambda _: asyncio.sleep(0), SHORT)
    trial.start()
    trial.feed("k:bad0", *(f"k:e{number}" for number in range(20)), values=SPOILT)
    await trial.settled(21)
    assert Counter(letter.kind for letter in trial.letters) == {"poison": 1, "parked": 20}
    for count in range(10):
        trial.redrive("bad0")
        await trial.until(lambda: len(trial.letters) == 22 + count)  # before the next redrive
    assert {letter.kind for letter in trial.letters[21:]} == {"poison"}
    assert trial.pipeline.failure_policy.poison.state is CLOSED


async def test_poison_is_no_flood_and_none_is_never(make: Make) -> None:
    """Events that no handler has seen say nothing about handlers.

    `DeadLetter.FloodRun` 0 turns the limiter off.
    """
    trial = make(flood=FLOOD)
    trial.handler("work", counting(Outage()), SHORT)
    trial.start()
    trial.feed(
        *(f"k:bad{number}" for number in range(20)),
        values={f"bad{number}": b"\xff" for number in range(20)},
    )
    await trial.settled(20)
    assert len(trial.letters) == 20

    config = DeadLetterConfig(flood_run=0)
    run = config.flood_run
    trial = make(
        flood=Breaker(run, 1, config.flood_ratio, config.flood_window_s, run), concurrency=10
    )
    trial.handler("work", counting(Outage()), SHORT)
    trial.start()
    trial.feed(*(f"k{number}" for number in range(200)))
    await trial.settled(200)
    assert len(trial.letters) == 200
