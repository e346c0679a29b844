"""Tests of redelivery: redriven and dropped dead letters, and events of retry topics."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.record import Failure
from famulus.deadletter.redelivery import outgoing, retry_of
from famulus.deadletter.topics import retry_topic
from famulus.errors import PermanentError, TransientError
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import ATTEMPTS, DEAD
from famulus.state.dedupe import Dedupe
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import DEDUPE, LETTERS, REDRIVE, Letter, Trial, Try, trials

Make = Callable[..., Trial]
LATER = retry_topic("t", "group", 1)


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a fake clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


class Broken:
    """A handler that refuses events whose names are in *bad*."""

    def __init__(self, *bad: str, error: Callable[[], Exception] = PermanentError) -> None:
        self.bad = set(bad)
        self.error = error

    async def __call__(self, event: Try) -> None:
        """Raise the error if the event is in *bad*."""
        await asyncio.sleep(0)
        if event.name in self.bad:
            raise self.error()


def trial_of(
    make: Make, do: Callable[[Try], Awaitable[None]], *events: str, **options: Any
) -> Trial:
    """Return a started trial with one handler and events in its source."""
    trial = make(**options)
    trial.handler("work", do)
    trial.start()
    trial.feed(*events)
    return trial


@pytest.mark.parametrize("dedupe", [DEDUPE, None, Dedupe(1000, identity=lambda event: event.name)])
async def test_what_is_redriven_twice_is_handled_once(make: Make, dedupe: Dedupe | None) -> None:
    """A restart changes nothing, nor does reading the topic from its beginning again."""
    broken = Broken("a")
    trial = trial_of(make, broken, "k:a", "k:b", dedupe=dedupe)
    await trial.settled(2)
    broken.bad.clear()
    trial.redrive("a")
    trial.redrive("a")
    await trial.until(
        lambda: (
            trial.processor.backs.of[next(iter(trial.processor.backs.of))].offsets.next_offset == 2
        )
    )
    assert (trial.count("work", "a"), trial.names().count("a")) == (1, 2)
    await trial.kill()
    trial.finished_back.clear()
    trial.start()
    trial.redrive("a")
    await trial.until(
        lambda: (
            trial.processor.backs.of[next(iter(trial.processor.backs.of))].offsets.next_offset == 3
        )
    )
    assert (trial.count("work", "a"), trial.names().count("a")) == (1, 2)
    assert trial.counts["duplicate"] == 4


async def test_two_events_with_one_id_are_both_redriven_where_none_is_a_duplicate(
    make: Make,
) -> None:
    """`dedupe=False` declares that two events with one id are both wanted."""
    broken = Broken("a")
    trial = trial_of(make, broken, "k:a", "k:a", dedupe=None)
    await trial.settled(2)
    broken.bad.clear()
    for letter in [record for record in trial.sent if record.topic == LETTERS]:
        trial.sent.append(letter)  # `redrive` takes the newest one
        trial.redrive("a")
        trial.redrive("a")
    await trial.until(lambda: trial.count("work", "a") == 2)
    await asyncio.sleep(1)
    assert trial.count("work", "a") == 2


async def test_what_fails_again_is_a_dead_letter_again(make: Make) -> None:
    """The event gets all of its attempts again, and its hop count increases by one."""
    trial = trial_of(make, Broken("a", error=TransientError), "k:a")
    await trial.settled(1)
    for hops in range(1, 4):
        trial.redrive("a")
        # Awaited in this iteration, so that the lambda may use `hops`.
        await trial.until(lambda: len(trial.letters) == hops + 1)
        assert dict(trial.sent[-1].headers)["famulus-hops"] == b"%d" % hops
    assert [call.attempt for call in trial.calls] == [1, 2, 3] * 4
    assert (set(trial.letters), trial.rows(ATTEMPTS)) == ({Letter("a", "exhausted", "work", 3)}, 0)


async def test_a_redrive_counts_on_after_a_restart(make: Make) -> None:
    """Its attempts are noted as those of any other event, and deleted when it is done."""
    broken = Broken("a", error=TransientError)
    trial = trial_of(make, broken, "k:a")
    await trial.settled(1)
    trial.redrive("a")
    await trial.until(lambda: len(trial.calls) == 5)
    await trial.kill()
    broken.bad.clear()
    trial.start()
    await trial.until(lambda: trial.count("work", "a") == 1)
    assert [call.attempt for call in trial.calls[3:]] == [1, 2, 3]
    assert round(trial.calls[-1].at_s - trial.calls[-2].at_s) == 4
    assert (trial.rows(ATTEMPTS), trial.processor.state.failure_state.any) == (0, False)


async def test_a_key_goes_on_in_its_order_when_its_dead_letters_come_back(make: Make) -> None:
    """A parked event is handled after the one that it was parked for.

    New events of the key are parked behind it meanwhile.
    """
    broken = Broken("a")
    trial = trial_of(make, broken, "k:a", "k:b", "k:c", "l:d", on_dead_letter="sequence")
    await trial.settled(4)
    assert [letter.kind for letter in trial.letters] == ["permanent", "parked", "parked"]
    trial.redrive("b")  # too early: `a` is still dead
    await trial.until(lambda: len(trial.letters) == 4)
    assert trial.letters[3] == Letter("b", "parked", "", 0)
    broken.bad.clear()
    trial.redrive("a")
    await trial.until(lambda: trial.rows(DEAD) == 2)
    trial.feed("k:e")
    await trial.settled(5)
    assert trial.letters[4] == Letter("e", "parked", "", 0)
    await trial.kill()
    trial.start()
    for name in "bce":
        trial.redrive(name)
    trial.feed("k:f")
    await trial.until(lambda: trial.count("work", "e") == 1)
    assert [call.name for call in trial.calls if call.name in "abce"] == ["a", "a", "b", "c", "e"]
    assert trial.rows(DEAD) == (0 if trial.letters[-1].name != "f" else 1)
    if trial.rows(DEAD):
        trial.redrive("f")
    await trial.until(lambda: trial.count("work", "f") == 1)
    assert (trial.rows(DEAD), trial.processor.state.failure_state.any) == (0, False)


async def test_one_that_fails_again_keeps_its_key_waiting(make: Make) -> None:
    """All dead letters may be redriven at once, and those behind the failed one are parked."""
    trial = trial_of(make, Broken("a"), "k:a", "k:b", "k:c", on_dead_letter="sequence")
    await trial.settled(3)
    for name in "abc":
        trial.redrive(name)
    await trial.until(lambda: len(trial.letters) == 6)
    assert [(letter.name, letter.kind) for letter in trial.letters[3:]] == [
        ("a", "permanent"),
        ("b", "parked"),
        ("c", "parked"),
    ]
    assert (trial.rows(DEAD), trial.names()) == (3, ["a", "a"])


async def test_a_drop_frees_the_key(make: Make) -> None:
    """The event is not handled, and those behind it may be redriven.

    A second drop has no effect.
    """
    trial = trial_of(make, Broken("a"), "k:a", "k:b", on_dead_letter="sequence")
    await trial.settled(2)
    trial.redrive("a", "drop")
    trial.redrive("a", "drop")
    trial.redrive("b")
    await trial.until(lambda: trial.count("work", "b") == 1)
    assert (trial.names(), trial.rows(DEAD), trial.counts["ignored"]) == (["a", "b"], 0, 2)


@pytest.mark.parametrize("says", ["halt", "skip"])
async def test_a_partition_has_only_so_many_dead_letters(make: Make, says: str) -> None:
    """At the limit the partition halts, or goes on without parking.

    A known dead letter that fails again does not count twice.
    """
    options = {"on_dead_letter": "sequence", "sequence_max": 2, "on_sequence_full": says}
    trial = trial_of(make, Broken("a"), "k:a", "k:b", "l:c", **options)
    await trial.settled(3)
    trial.redrive("a")
    trial.redrive("b")
    await trial.until(lambda: len(trial.letters) == 4)
    assert not trial.processor.halted
    trial.feed("k:d", "k:e")
    if says == "halt":
        await trial.until(lambda: bool(trial.processor.halted))
        assert "and 2 events are dead or parked already" in trial.processor.halted
        assert trial.processor.checkpointed_offset == 3
        assert trial.rows(DEAD) == 2
        trial.redrive("a", "drop")
        trial.redrive("b", "drop")
        await trial.until(lambda: not trial.rows(DEAD))
        await trial.kill()
        trial.start()
        await trial.settled(5)
        assert trial.names()[-2:] == ["d", "e"]
    else:
        await trial.settled(5)
        assert [letter.name for letter in trial.letters[4:]] == ["d", "e"]
        assert trial.rows(DEAD) == 2


async def test_a_key_that_is_none_waits_for_nobody(make: Make) -> None:
    """Records without a key do not wait for each other."""
    trial = trial_of(make, Broken("a", "b"), ":a", ":b", ":c", on_dead_letter="sequence")
    await trial.settled(3)
    assert [letter.kind for letter in trial.letters] == ["permanent", "permanent"]
    assert (trial.rows(DEAD), trial.count("work", "c")) == (0, 1)


async def test_a_partition_that_is_one_sequence_waits_as_a_whole(make: Make) -> None:
    broken = Broken("a")
    trial = trial_of(make, broken, "k:a", "l:b", ":c", on_dead_letter="sequence", order="partition")
    await trial.settled(3)
    assert [letter.kind for letter in trial.letters] == ["permanent", "parked", "parked"]
    broken.bad.clear()
    for name in "abc":
        trial.redrive(name)
    await trial.until(lambda: trial.count("work", "c") == 1)
    assert (trial.names(), trial.rows(DEAD)) == (["a", "a", "b", "c"], 0)


async def test_what_is_none_of_ours_is_left_alone(make: Make) -> None:
    """A foreign producer wrote to the topic.

    Its records are finished, the next one is handled, and the worker stays up.
    """
    broken = Broken("a")
    trial = trial_of(make, broken, "k:a", stages=1)
    await trial.settled(1)
    broken.bad.clear()
    failure = Failure(FailureKind.EXHAUSTED, TransientError(), 0, "h.work", 3)
    good = outgoing(LATER, retry_of(trial.source[0], failure, 1, 1.0))
    for topic in (REDRIVE, LATER):
        for headers in ([], [("original-topic", b"t")], [(n, b"\xff") for n, _ in good.headers]):
            trial.send_back(ProducerRecord(topic, b"k", b"\xff", headers, 0))
        for name in (
            "famulus-due",
            "famulus-attempts",
            "famulus-timestamp",
            "famulus-action",
            "original-offset",
        ):
            trial.send_back(
                replace(
                    good,
                    topic=topic,
                    headers=[(n, b"\xff\xfe" if n == name else v) for n, v in good.headers],
                )
            )
    trial.redrive("a")
    await trial.until(lambda: trial.count("work", "a") == 1)
    assert (
        trial.faults,
        [back.offsets.in_flight for back in trial.processor.backs.of.values()],
    ) == (
        [],
        [0, 0],
    )


@pytest.mark.parametrize(("now", "stage", "letters"), [(1, 2, 1), (0, 1, 1), (0, 3, 1), (3, 2, 0)])
async def test_what_waits_at_a_stage_of_earlier_code_has_one_attempt_more(
    make: Make, now: int, stage: int, letters: int
) -> None:
    """Afterwards the event goes to the next existing stage, or becomes a dead letter."""
    trial = make(stages=3)
    handler = trial.handler("work", Broken("a", error=TransientError), delays_s=(60.0,) * now)
    trial.start()
    trial.feed("l:b")
    await trial.settled(1)
    failure = Failure(FailureKind.EXHAUSTED, TransientError(), 0, handler.name, 2 + stage)
    value = codec_of(Try).encode(Try(key="k", name="a"))
    record: Any = SimpleNamespace(
        **{**vars(trial.source[0]), "headers": [("ce_id", b"k:a")], "value": value}
    )
    waiting = retry_of(record, failure, stage, 0.0)
    trial.send_back(outgoing(retry_topic("t", "group", stage), waiting))
    await trial.until(lambda: len(trial.letters) == letters and "a" in trial.names())
    assert trial.names().count("a") == 1
    assert [letter.attempts for letter in trial.letters] == [3 + stage] * letters
    assert [record.topic for record in trial.sent if record.topic != LETTERS] == (
        [] if letters else [retry_topic("t", "group", stage + 1)]
    )
