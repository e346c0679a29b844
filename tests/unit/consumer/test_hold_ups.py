"""Tests of hold-ups: events that block the event loop until the group removes the worker."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from faust.types import TP

from famulus.consumer.hold_ups import HoldUpNotes
from famulus.control.control_state import ControlState
from famulus.control.hold_ups import HoldUp, HoldUpId, HoldUps, hold_up_id
from famulus.control.pauses import Pauses
from famulus.errors import TransientError, UnsentError
from famulus.processing.failures.retry_policy import Retry
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.pipeline import WorkItem
from famulus.serialization.records import ProducerRecord
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Trial, Try, trials

Make = Callable[..., Trial]
# A hold-up as the first version wrote it.
HELD = b'{"seconds":7.5,"by":"host","at":"2026-01-01T00:00:00Z","stage":0}'
PLACE = TP("t", 0)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def watch(trial: Trial) -> list[tuple[int, float, bool]]:
    """Return a list that gets each hold-up: offset, seconds, and whether it is sure."""
    found: list[tuple[int, float, bool]] = []

    def note(
        processor: PartitionProcessor, work: WorkItem, seconds: float, *, is_sure: bool
    ) -> None:
        assert processor is trial.processor
        found.append((work[1].offset, round(seconds, 1), is_sure))

    trial.task_pool.on_held = note
    return found


async def do_as_named(trial: Trial, event: Try) -> None:
    """Block the event loop or sleep, as the name of the event says."""
    if event.name.startswith("late"):
        await asyncio.sleep(1)
    if event.name.endswith("held"):
        trial.clock.now += 7
    if event.name.startswith("waits"):
        await asyncio.sleep(30)


EVENTS = [
    "a:1",
    "b:waits",
    "c:2",
    "d:held",
    "e:3",
    "f:late-held",
    "g:late-held",
    "h:4",
    "i:waits-held",
    "j:5",
]


@pytest.mark.parametrize("is_watched", [True, False])
async def test_the_event_that_held_the_loop_is_known_among_many(
    make: Make, *, is_watched: bool
) -> None:
    """The engine is sure of an event that has suspended or whose partition is already watched.

    Otherwise some event of the same step is reported, at the latest the one after it.
    """
    trial = make(concurrency=20)
    trial.handler("work", lambda event: do_as_named(trial, event))
    trial.start()
    trial.processor.state.failure_state.note_held({(100, 0): 0} if is_watched else {})
    found = watch(trial)
    trial.feed(*EVENTS)
    await trial.settled(10)
    sure = sorted(offset for offset, _, is_sure in found if is_sure)
    assert sure == ([3, 5, 6, 8] if is_watched else [5, 6])
    assert {seconds for _, seconds, _ in found} == {7.0}
    assert len(found) == 4


async def test_an_event_alone_is_known_at_once(make: Make) -> None:
    trial = make()
    trial.handler("work", lambda event: do_as_named(trial, event))
    trial.start()
    found = watch(trial)
    trial.feed("a:held")
    await trial.settled(1)
    trial.feed("b:1")
    await trial.settled(2)
    assert found == [(0, 7.0, True)]


async def test_who_waits_holds_nothing_up(make: Make) -> None:
    """Retries and long waits are no hold-up."""
    trial = make(concurrency=2)

    async def do(event: Try) -> None:
        await asyncio.sleep(60)
        if trial.names().count(event.name) == 1:
            raise TransientError

    trial.handler("work", do, Retry(2, 20, wait_max_s=20))
    trial.start()
    found = watch(trial)
    trial.feed("a:1", "b:2", "c:3", "d:4")
    await trial.settled(4)
    assert found == []


@pytest.mark.parametrize(("times", "runs"), [(0, 3), (1, 2), (2, 1), (3, 0), (9, 0)])
async def test_each_time_counts_as_an_attempt(make: Make, times: int, runs: int) -> None:
    """Failed attempts are added.

    At the limit the event becomes a dead letter without another run.
    """
    trial = make()

    async def fails(event: Try) -> None:
        if event.name == "held":
            raise TransientError

    trial.handler("work", fails, Retry(3, 1, wait_max_s=1))
    trial.start()
    trial.processor.state.failure_state.note_held({(1, 0): times} if times else {})
    trial.feed("a:1", "a:held", "a:2")
    await trial.settled(3)
    assert [call.name for call in trial.calls] == ["1", *["held"] * runs, "2"]
    assert [call.attempt for call in trial.calls][1:-1] == [*range(times + 1, times + 1 + runs)]
    [letter] = trial.letters
    assert (letter.name, letter.kind, letter.attempts) == ("held", "exhausted", max(times, 3))


async def test_what_was_noted_of_one_stage_says_nothing_of_another(make: Make) -> None:
    """A redriven event starts from scratch, and each retry topic has an attempt of its own."""
    trial = make(stages=1)
    broken = True

    async def fails(event: Try) -> None:
        if broken:
            raise TransientError

    trial.handler("work", fails, Retry(1), delays_s=(1.0,))
    trial.start()
    trial.processor.state.failure_state.note_held({(0, 0): 1})
    trial.feed("a:held")
    await trial.until(lambda: len(trial.letters) == 1)
    assert [call.attempt for call in trial.calls] == [2]  # only in the retry topic
    broken = False
    trial.redrive("held")
    await trial.until(lambda: len(trial.calls) == 2)
    assert len(trial.letters) == 1


async def test_attempts_of_before_count_too(make: Make) -> None:
    """The attempts in the state and those in the admin topic are added."""
    trial = make()

    async def fails(event: Try) -> None:
        raise TransientError

    trial.handler("work", fails, Retry(4, 50, wait_max_s=50, jitter=0))
    trial.start()
    trial.feed("a:1")
    await trial.until(lambda: bool(trial.calls) and bool(trial.stored))
    await trial.kill()
    trial.start()
    trial.processor.state.failure_state.note_held({(0, 0): 2})
    await trial.settled(1)
    assert [call.attempt for call in trial.calls] == [1, 4]


def test_the_topic_says_it_in_bytes_that_stay() -> None:
    """Hold-ups are counted by offset and stage, and a tombstone removes one."""
    control_state = ControlState()
    key = b"held:t/0/5/aa"
    said = (
        "t-0 offset 5 held host up for 8 s, which lost its place in the group, at "
        "2026-01-01T00:00:00Z"
    )
    assert control_state.take(key, HELD) == said
    control_state.take(b"held:t/0/5/bb", HELD)
    control_state.take(b"held:t/0/5/cc", HELD.replace(b'"stage":0', b'"stage":2'))
    control_state.take(b"held:t/1/5/aa", HELD)
    control_state.take(b"held:t/0/6/dd", HELD.replace(b"}", b',"is_sure":false}'))
    assert control_state.holdups.times("t", 0) == {(5, 0): 2, (5, 2): 1, (6, 0): 0}
    control_state.take(key, None)
    assert control_state.holdups.times("t", 0) == {(5, 0): 1, (5, 2): 1, (6, 0): 0}
    assert str(hold_up_id(key.decode())) == key.decode()
    assert control_state.pauses.of == {}


def test_workers_of_before_leave_it_alone() -> None:
    """Earlier versions take a key without a known prefix for a pause and must refuse this one."""
    for value in (HELD, None):
        with pytest.raises(ValueError, match="is neither"):
            Pauses().take(b"held:t/0/5/aa", value)


@pytest.mark.parametrize(
    "rest", ["", "t/0/5", "t/x/5/a", "t/0/-5/a", "t/0/5/", f"t/0/{'9' * 20}/a", "t/0/\u0665/a"]
)
def test_what_is_none_of_ours_is_refused(rest: str) -> None:
    """The reader skips the record because of this error."""
    with pytest.raises(ValueError, match="held:TOPIC/PARTITION/OFFSET/ID"):
        ControlState().take(f"held:{rest}".encode(), HELD)


class Sender:
    """A producer that records what is sent, or refuses it."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bool]] = []
        self.works = True

    async def send_together(self, records: Sequence[ProducerRecord]) -> None:
        """Record the keys, and whether they have a value."""
        if not self.works:
            raise UnsentError("no")
        assert {record.topic for record in records} == {"g.admin"}
        self.sent += [
            ((record.key or b"").decode(), record.value is not None) for record in records
        ]


async def test_only_what_cost_the_place_is_noted(make: Make) -> None:
    """A hold-up is not noted while the worker is a member, or if the process was frozen.

    Otherwise it is known at once and sent to the admin topic.
    """
    trial = make()
    trial.start()
    sender: Any = Sender()
    holdups, has_place = HoldUps(), True
    notes = HoldUpNotes(holdups, sender, "g", lambda: has_place)
    before = signal.getsignal(signal.SIGCONT)
    notes.start()
    try:
        trial.feed("a:1")
        work = trial.pipeline.works_of(trial.source, trial.processor.state, [0])
        event = next(iter(work))
        notes.note(trial.processor, event, 7, is_sure=True)
        assert holdups.times(*PLACE) == {}
        has_place = False
        os.kill(os.getpid(), signal.SIGCONT)
        notes.note(trial.processor, event, 7, is_sure=True)
        assert holdups.times(*PLACE) == {}
        trial.clock.now += 10
        notes.note(trial.processor, event, 7, is_sure=True)
        assert holdups.times(*PLACE) == {(0, 0): 1}
        await asyncio.sleep(1)
        [(key, has_value)] = sender.sent
        assert key.startswith("held:t/0/0/")
        assert has_value
        notes.tidy({PLACE: 0})
        assert holdups.times(*PLACE) == {(0, 0): 1}
        notes.tidy({PLACE: 1})
        await asyncio.sleep(1)
        assert holdups.times(*PLACE) == {}
        assert sender.sent[1:] == [(key, False)]
        sender.works = False
        notes.note(trial.processor, event, 7, is_sure=True)
        await asyncio.sleep(1)
        assert holdups.times(*PLACE) == {(0, 0): 1}
    finally:
        signal.signal(signal.SIGCONT, before)


def test_old_notes_are_forgotten() -> None:
    """The offset cannot decide this for events in retry topics."""
    holdups = HoldUps()
    for at, stage in (
        ("2026-01-01T00:00:00Z", 1),
        ("2026-01-09T00:00:00Z", 1),
        ("2026-01-09T00:00:00Z", -1),
    ):
        holdups.note(HoldUpId("t", 0, 5, f"{at}{stage}"), HoldUp(7, "host", at, stage))
    assert [name.id for name in holdups.done("t", 0, 100, "2026-01-02")] == [
        "2026-01-01T00:00:00Z1"
    ]
