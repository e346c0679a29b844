"""Tests of telemetry events: their contents, their cost, and callbacks that raise."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from famulus.errors import ConfigError, PermanentError, TransientError
from famulus.observability.consumed import EVERY_S, Consumed, Consumers, note_consumed
from famulus.processing.failures.retry_policy import Retry
from famulus.processing.telemetry_pipeline import with_telemetry
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import Trial, Try, trials

CONSUMED = Consumed("t", 3, 7, "test.Deed", "handled", 0.0125)
Make = Callable[..., Trial]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


async def nothing(event: Try) -> None:
    """Do nothing."""


async def do(event: Try) -> None:
    """Sleep for three seconds, and fail if the name asks for it.

    `bad` fails always, `again` and `later` fail the first time.
    """
    await asyncio.sleep(3)
    tries[event.name] = tries.get(event.name, 0) + 1
    if event.name == "bad":
        raise PermanentError("no")
    if event.name in {"again", "later"} and tries[event.name] == 1:
        raise TransientError("no")


tries: dict[str, int] = {}


async def test_each_message_is_told_once(make: Make) -> None:
    """The time covers all attempts of the event, but not the waits between them."""
    tries.clear()
    found: list[Consumed] = []
    trial = make()
    trial.pipeline = with_telemetry(trial.pipeline, [found.append])
    trial.handler("do", do, Retry(3, 20.0, jitter=0.0))
    trial.start()
    trial.feed("a:x", "b:again", "c:bad", "a:x", "d:broken", values={"broken": b"{"})
    trial.feed("e:y", kind=b"test.Stranger")
    await trial.settled(6)
    by_place = {of.offset: of for of in found}
    assert len(found) == len(by_place) == 6
    assert {of.event_type for of in found} == {"test.Try", "test.Stranger"}
    assert {(of.topic, of.partition) for of in found} == {("t", 0)}
    assert [(by_place[n].outcome, round(by_place[n].processing_s, 6)) for n in range(6)] == [
        ("handled", 3),
        ("handled", 6),
        ("dead_lettered", 3),
        ("duplicate", 0),
        ("dead_lettered", 0),
        ("ignored", 0),
    ]


async def test_a_message_that_leaves_for_a_retry_topic_is_postponed(make: Make) -> None:
    """The event is reported again after its redelivery."""
    tries.clear()
    found: list[Consumed] = []
    trial = make(stages=1)
    trial.pipeline = with_telemetry(trial.pipeline, [found.append])
    trial.handler("do", do, Retry(1), delays_s=(60.0,))
    trial.start()
    trial.feed("a:later", "b:x")
    await trial.settled(2)
    await asyncio.sleep(200)
    assert [of.outcome for of in found if of.offset == 1] == ["handled"]
    assert [of.outcome for of in found if of.offset == 0] == ["postponed", "handled"]


async def test_nobody_asked_is_the_same_pipeline(make: Make) -> None:
    """Without callbacks there is no additional call for an event."""
    trial = make()
    trial.start()
    assert with_telemetry(trial.pipeline, []) is trial.pipeline
    assert trial.pipeline.failure_policy.postponed is None


@pytest.mark.parametrize(
    "error", [ValueError("secret"), SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()]
)
async def test_a_callback_that_raises_harms_nothing(
    make: Make, error: BaseException, caplog: Any
) -> None:
    """The failure is counted, logged once in half a minute, and quotes nothing.

    Other callbacks are called, and every event is handled.
    """

    def fail(consumed: Consumed) -> None:
        raise error

    found: list[Consumed] = []

    def note(consumed: Consumed) -> None:
        found.append(consumed)

    trial = make()
    now = [0.0]
    consumers = Consumers(lambda: now[0])
    consumers.add(fail)
    consumers.add(note)
    trial.pipeline = with_telemetry(trial.pipeline, [consumers.tell])
    trial.handler("do", nothing)
    trial.start()
    trial.feed("a:x", "b:y", "c:z")
    await trial.settled(3)
    assert (trial.counts["handled"], len(found), trial.faults) == (3, 3, [])
    [name] = [name for name in consumers.failures if name.endswith("fail")]
    assert consumers.failures.total() == consumers.failures[name] == 3
    said = [r.getMessage() for r in caplog.records if "app.on_consumed" in r.getMessage()]
    assert len(said) == 1
    assert name in said[0]
    assert "secret" not in caplog.text
    now[0] += EVERY_S
    consumers.tell(CONSUMED)
    assert caplog.records[-1].getMessage().endswith("others_before=2")


async def test_what_a_callback_does_to_its_task_is_gone_with_the_event(make: Make) -> None:
    """A cancellation by the callback affects no other event."""

    def cancel(consumed: Consumed) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    trial = make()
    consumers = Consumers()
    consumers.add(cancel)
    trial.pipeline = with_telemetry(trial.pipeline, [consumers.tell])
    trial.handler("do", do)
    trial.start()
    trial.feed("a:x", "b:y", "c:z")
    await trial.settled(3)
    assert (trial.counts["handled"], trial.counts["dead_lettered"], trial.faults) == (3, 0, [])


async def later(consumed: Consumed) -> None:
    """Stand for an async function, which is not accepted."""


def none() -> None:
    """Stand for a function without a parameter, which is not accepted."""


@pytest.mark.parametrize("callback", [later, none, 7, functools.partial(later)])
def test_what_is_no_callback_is_refused(callback: Any) -> None:
    """The error comes at the declaration and names the place."""
    with pytest.raises(ConfigError, match=r"app\.on_consumed"):
        Consumers().add(callback)


def test_a_module_that_is_loaded_again_is_told_once() -> None:
    """The newer function replaces the older one."""
    found: list[str] = []
    consumers = Consumers()
    for name in ("older", "newer"):

        def note(consumed: Consumed, name: str = name) -> None:
            found.append(name)

        consumers.add(note)
    consumers.tell(CONSUMED)
    assert found == ["newer"]


def test_the_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The entry is one line for any type name of a sender.

    Exporters get the same values as attributes.
    """
    with caplog.at_level(logging.INFO, "app.consumed"):
        note_consumed(CONSUMED)
        note_consumed(Consumed("t", 3, 8, "a\nb", "handled", 0.0))
    first, second = caplog.records
    assert first.getMessage() == (
        "KafkaMessageConsumed topic=t partition=3 offset=7 type=test.Deed outcome=handled "
        "processing_ms=12.5"
    )
    assert {
        name: vars(first)[f"famulus.{name}"]
        for name in ("topic", "partition", "offset", "type", "outcome")
    } == {
        "topic": "t",
        "partition": 3,
        "offset": 7,
        "type": "test.Deed",
        "outcome": "handled",
    }
    assert vars(first)["famulus.processing_ms"] == 12.5
    assert "\n" not in second.getMessage()
    with caplog.at_level(logging.WARNING, "app.consumed"):
        note_consumed(CONSUMED)
    assert len(caplog.records) == 2
