"""Tests of events that wait for a retry, in their lane or in a retry topic, over restarts."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from faust.types import TP

from famulus.deadletter.redelivery import outgoing, parse_redelivery
from famulus.deadletter.topics import retry_topic
from famulus.errors import TransientError
from famulus.processing.failures.retry_policy import Retry
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import ATTEMPTS
from famulus.state.failure_state import Attempts
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.house import Fetch
from tests.support.in_memory.trial import REDRIVE, Letter, Trial, Try, read, trials

Make = Callable[..., Trial]
LATER = retry_topic("t", "group", 1)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def failure_policy(*names: str) -> Callable[[Try], Awaitable[None]]:
    """Return a handler that fails for events of these names."""

    async def do(event: Try) -> None:
        if event.name in names:
            raise TransientError

    return do


async def test_closing_drops_what_rests_at_once(make: Make) -> None:
    """The next owner waits for the remainder of the back-off and continues to count attempts."""
    trial = make()
    trial.handler("work", failure_policy("bad"), Retry(3, 60.0))
    trial.start()
    trial.feed(*(f"k{number}:bad" for number in range(20)), "other")
    await trial.until(lambda: trial.processor.lanes.resting == 20 and trial.rows(ATTEMPTS) == 20)
    began = trial.clock.passed_s
    assert await trial.processor.close(5)
    assert trial.clock.passed_s - began < 0.1
    assert not trial.processor.checkpointed_offset
    await trial.kill()
    assert trial.names().count("bad") == 20
    trial.start()
    await asyncio.sleep(50)
    assert trial.names().count("bad") == 20
    await trial.settled(21)
    assert {call.attempt for call in trial.calls if call.at_s > 59} == {2, 3}
    assert len(trial.letters) == 20
    assert (trial.counts["retried"], trial.rows(ATTEMPTS)) == (40, 0)


async def test_back_off_uses_up_no_hands(make: Make) -> None:
    """With two tasks and fifty keys in back-off, another key is handled at once."""
    trial = make(concurrency=2)
    trial.handler("work", failure_policy("bad"), Retry(3, 60.0))
    trial.start()
    trial.feed(*(f"k{number}:bad" for number in range(50)))
    await trial.until(lambda: trial.processor.lanes.resting == 50)
    trial.feed("other")
    await trial.until(lambda: "other" in trial.names())
    assert trial.calls[-1].at_s < 1
    assert trial.processor.lanes.held == 0


@pytest.mark.parametrize("seen", [1, 2])
async def test_a_worker_that_dies_in_a_back_off_does_not_count_anew(make: Make, seen: int) -> None:
    """The attempts and the time of the next one are rows of the state."""
    trial = make()
    trial.handler("work", failure_policy("bad"))
    trial.start()
    trial.feed("k:bad")
    await trial.until(lambda: len(trial.calls) == seen and trial.rows(ATTEMPTS) == 1)
    await trial.kill()
    trial.start()
    await trial.settled(1)
    assert [call.at_s for call in trial.calls] == [0, 2, 6]
    assert trial.letters == [Letter("bad", "exhausted", "work", 3)]
    assert trial.rows(ATTEMPTS) == 0


async def test_nothing_comes_back_before_its_time(make: Make) -> None:
    """Each event is redelivered once and on time, although the worker is killed meanwhile."""
    trial = make(stages=1, concurrency=10)
    trial.handler("work", failure_policy(*"abcdefghij"), Retry(1), delays_s=(60.0,))
    trial.start()
    for number, name in enumerate("abcdefghij"):
        trial.feed(f"{name}:{name}")
        await asyncio.sleep(number)
        if number in {3, 7}:
            await trial.kill()
            trial.start()
    await trial.until(lambda: len(trial.letters) == 10)
    first = {call.name: call.at_s for call in trial.calls if call.attempt == 1}
    again = {call.name: call.at_s for call in trial.calls if call.attempt == 2}
    assert len(trial.calls) == 20
    assert all(60 <= again[name] - first[name] < 60.1 for name in "abcdefghij")


async def test_a_flow_that_closes_starts_nothing_that_comes_back(make: Make) -> None:
    """Neither fetched records nor those that become due during the close are started.

    No timer is left that would wake the processor.
    """
    slow = asyncio.Event()

    async def work(event: Try) -> None:
        if event.name == "slow":
            await slow.wait()
        await failure_policy("a")(event)

    trial = make(stages=1)
    trial.handler("work", work, Retry(1), delays_s=(60.0,))
    trial.start()
    trial.feed("a:a", "s:slow")
    await trial.until(lambda: len(trial.sent) == 1)
    waits = trial.back[LATER]
    due = read(outgoing(LATER, replace(parse_redelivery(waits[0]), due_ms=0)), 1)
    trial.processor.receive_redelivery(TP(LATER, 0), Fetch([due]))
    closing = asyncio.create_task(trial.processor.close(200))
    await asyncio.sleep(0)
    trial.processor.receive_redelivery(TP(LATER, 0), Fetch([due]))
    trial.task_pool.wake(trial.processor)
    await asyncio.sleep(100)
    assert len(trial.calls) == 2
    slow.set()
    assert await closing
    trial.task_pool.wake(trial.processor)
    await asyncio.sleep(100)
    assert len(trial.calls) == 2


async def test_many_that_wait_need_one_timer(make: Make) -> None:
    """Records that arrive meanwhile add no timers."""
    trial = make(stages=1)
    trial.handler("work", failure_policy("a"), Retry(1), delays_s=(300.0,))
    trial.start()
    trial.feed("a:a")
    loop: Any = asyncio.get_running_loop()
    for _ in range(50):
        trial.send_back(ProducerRecord(REDRIVE, b"k", b"none of ours", [], 0))
        await asyncio.sleep(1)
    assert len([timer for timer in loop._scheduled if not timer.cancelled()]) < 10


async def test_a_record_that_comes_back_twice_fails_once(make: Make) -> None:
    """A record may be sent twice, or be read again after a kill.

    Only one attempt and one dead letter may follow.
    """
    trial = make(stages=1)
    trial.handler("work", failure_policy("a"), Retry(1), delays_s=(60.0,))
    trial.start()
    trial.feed("a:a")
    await trial.until(lambda: len(trial.letters) == 1)
    trial.send_back(next(record for record in trial.sent if record.topic == LATER))
    await trial.kill()
    trial.finished_back.clear()
    trial.start()
    await trial.until(lambda: trial.processor.backs.of[TP(LATER, 0)].offsets.next_offset == 2)
    assert (len(trial.calls), len(trial.letters), trial.counts["duplicate"]) == (2, 1, 2)
    trial.redrive("a")
    await trial.until(lambda: len(trial.letters) == 2)
    assert [call.attempt for call in trial.calls[2:]] == [1, 2]  # starts from attempt 1


async def test_a_kill_between_sending_and_settling_counts_nothing_anew(make: Make) -> None:
    """The event is handled again, and its retry record may be redelivered before that.

    Each of the two keeps its count of attempts.
    """
    trial = make(stages=1)
    trial.handler("work", failure_policy("a"), Retry(2, 5.0), delays_s=(1.0,))
    trial.start()
    trial.feed("a:a")
    await trial.until(lambda: trial.rows(ATTEMPTS) == 1)
    trial.may_settle.clear()
    await trial.until(lambda: bool(trial.sent))
    await trial.kill()
    trial.may_settle.set()
    await asyncio.sleep(1)
    back, trial.back = trial.back, {}
    trial.start()
    trial.processor.forget()
    trial.back = back
    trial._receive_back(LATER, back[LATER])
    await trial.until(lambda: len(trial.letters) == 1)
    trial._receive(trial.source)
    await trial.settled(1)
    await asyncio.sleep(10)
    assert [call.attempt for call in trial.calls] == [1, 2, 3, 2]
    assert (len(trial.letters), trial.rows(ATTEMPTS), trial.counts["duplicate"]) == (1, 0, 1)


def with_header(record: ProducerRecord, name: str, value: bytes) -> ProducerRecord:
    """Return *record* with another value of a header."""
    return replace(
        record, headers=[(of, value if of == name else old) for of, old in record.headers]
    )


async def with_two_that_wait(make: Make) -> tuple[Trial, ProducerRecord, ProducerRecord]:
    """Return a restarted trial and the two records that wait in its retry topic."""
    trial = make(stages=1)
    trial.handler("work", failure_policy("a", "b"), Retry(1), delays_s=(60.0,))
    trial.start()
    trial.feed("a:a", "b:b")
    await trial.until(lambda: len(trial.sent) == 2)
    first, second = trial.sent
    await trial.kill()
    trial.back, trial.finished_back = {}, {}
    trial.start()
    return trial, first, second


@pytest.mark.parametrize("ahead_ms", [3_600_000, 10**17])
async def test_a_time_that_a_wrong_clock_wrote_holds_up_nothing(make: Make, ahead_ms: int) -> None:
    """The record waits for the delay of its topic by the broker's clock.

    The records behind it keep their own due times.
    """
    trial, first, second = await with_two_that_wait(make)
    due_ms = int(dict(first.headers)["famulus-due"])
    trial.send_back(with_header(first, "famulus-due", b"%d" % (due_ms + ahead_ms)))
    trial.send_back(with_header(first, "famulus-due", b"9" * 400))
    trial.send_back(with_header(first, "famulus-first", b"1" + b"0" * 18))
    trial.send_back(second)
    await trial.until(lambda: len(trial.letters) == 2)
    assert trial.clock.passed_s == pytest.approx(60, abs=1)
    assert trial.processor.backs.of[TP(LATER, 0)].offsets.next_offset == 4


async def test_what_was_unpacked_with_one_that_is_due_late_is_not_behind_it(make: Make) -> None:
    """Each record has its own due time, even if the record before it is due later."""
    trial, first, second = await with_two_that_wait(make)
    records = [
        read(replace(record, timestamp_ms=round(1000 * time.time())), n)
        for n, record in enumerate((first, with_header(second, "famulus-due", b"0")))
    ]
    trial.processor.receive_redelivery(TP(LATER, 0), Fetch(records))
    trial.task_pool.wake(trial.processor)
    await trial.until(lambda: len(trial.letters) == 1)
    assert trial.letters[0].name == "b"
    assert trial.clock.passed_s < 10


async def test_an_attempt_that_another_worker_put_off_by_a_wrong_clock_is_not_late(
    make: Make,
) -> None:
    """The event waits no longer than the longest wait of its retry policy."""
    trial = make()
    trial.handler("work", failure_policy("bad"), Retry(2, 5.0, wait_max_s=20.0))
    trial.start()
    trial.feed("k:bad")
    await trial.until(lambda: trial.rows(ATTEMPTS) == 1)
    await trial.kill()
    [key] = [key for key in trial.stored if key[:1] == ATTEMPTS]
    tried = msgspec.json.decode(trial.stored[key], type=Attempts)
    late = {name: of._replace(due_ms=of.due_ms + 86_400_000) for name, of in tried.items()}
    trial.stored[key] = msgspec.json.encode(late)
    trial.start()
    await trial.settled(1)
    assert len(trial.letters) == 1
    assert trial.clock.passed_s < 60
