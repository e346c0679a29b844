"""Tests of events that handlers publish: their lineage, and equal ids at a second attempt."""

from collections.abc import AsyncIterator, Callable

import pytest

from famulus.config import KafkaConfig
from famulus.errors import TransientError
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.serialization.records import Headers, derived_id
from famulus.state.unit_of_work import current_attempt
from tests.support.in_memory.clock import Clock
from tests.support.in_memory.trial import LETTERS, REDRIVE, Trial, Try, trials

Make = Callable[..., Trial]
PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = [("traceparent", PARENT), ("tracestate", b"a=b"), ("baggage", b"k=v")]


@pytest.fixture
async def make(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Yield a function that builds trials on a virtual clock."""
    async with trials(Clock(monkeypatch)) as build:
        yield build


def publishing(trial: Trial, *headers: Headers, fails: int = 0) -> None:
    """Add a handler that publishes an event with each of *headers*, then fails *fails* times."""
    bus = EventBus(Producer(KafkaConfig()), current_attempt)
    left = fails

    async def do(event: Try) -> None:
        nonlocal left
        for each in headers:
            await bus.publish(event, headers=each)
        left -= 1
        if left >= 0:
            raise TransientError("again")

    trial.handler("say", do)


def arrive(trial: Trial, *headers: tuple[str, bytes]) -> None:
    """Feed an event with *headers* in addition to its own."""
    event = f"{len(trial.source)}:x"
    trial.feed(event)
    trial.source[-1].headers += headers


def published(trial: Trial) -> list[dict[str, bytes]]:
    """Return the headers of the records sent to the topic of the events."""
    found = [record.headers for record in trial.sent if record.topic == "t"]
    assert all(len(dict(headers)) == len(headers) for headers in found)
    return [dict(headers) for headers in found]


async def test_what_is_published_names_its_cause(make: Make) -> None:
    """The headers have the id of the cause and that of the first event of its chain."""
    trial = make()
    publishing(trial, [])
    trial.start()
    arrive(trial)
    arrive(trial, ("ce_correlationid", b"first"))
    await trial.settled(2)
    first, second = published(trial)
    assert (first["ce_causationid"], first["ce_correlationid"]) == (b"0:x", b"0:x")
    assert (second["ce_causationid"], second["ce_correlationid"]) == (b"1:x", b"first")
    assert first["ce_subject"] == b"0"
    assert not first.keys() & dict(TRACE).keys()


async def test_a_second_run_publishes_the_same_ids(make: Make) -> None:
    """Each id depends on the position among the events of the handler."""
    trial = make()
    publishing(trial, [], [], fails=2)
    trial.start()
    arrive(trial)
    await trial.settled(1)
    assert trial.names() == ["x"] * 3
    assert [headers["ce_id"].decode() for headers in published(trial)] == [
        derived_id("#0:x", "h.say", 0),
        derived_id("#0:x", "h.say", 1),
    ]


async def test_a_trace_context_goes_through(make: Make) -> None:
    """Without OpenTelemetry, the context is passed on unless the handler gives another."""
    trial = make()
    own = [("traceparent", PARENT.replace(b"b7", b"c8"))]
    publishing(trial, [], own)
    trial.start()
    arrive(trial, *TRACE)
    await trial.settled(1)
    through, given = published(trial)
    assert [(name, through[name]) for name, _ in TRACE] == TRACE
    assert (given["traceparent"], "tracestate" in given, given["baggage"]) == (
        own[0][1],
        False,
        b"k=v",
    )


async def test_dead_letters_and_what_comes_back_keep_the_trace_context(make: Make) -> None:
    """The headers of the sender are unchanged."""
    trial = make()
    publishing(trial, [], fails=3)
    trial.start()
    arrive(trial, *TRACE)
    await trial.settled(1)
    [letter] = [record for record in trial.sent if record.topic == LETTERS]
    assert list(letter.headers[2:5]) == TRACE
    trial.redrive("x")
    await trial.until(lambda: bool(published(trial)))
    assert list(trial.back[REDRIVE][0].headers[2:5]) == TRACE
    assert [(name, published(trial)[0][name]) for name, _ in TRACE] == TRACE


async def test_a_reply_belongs_to_its_request(make: Make) -> None:
    """Each attempt, and a redrive of the request, gives the reply the same id and place."""
    trial = make()
    bus = EventBus(Producer(KafkaConfig()), current_attempt)
    left = 3

    async def do(event: Try) -> None:
        nonlocal left
        assert await bus.reply(event)
        left -= 1
        if left >= 0:
            raise TransientError("again")

    trial.handler("say", do)
    trial.start()
    arrive(
        trial,
        ("ce_replytopic", b"web.replies"),
        ("ce_replypartition", b"3"),
        ("original-topic", b"the sender's"),
    )
    await trial.settled(1)
    assert not [record for record in trial.sent if record.topic == "web.replies"]
    trial.redrive("x")
    await trial.until(lambda: any(record.topic == "web.replies" for record in trial.sent))
    [reply] = [record for record in trial.sent if record.topic == "web.replies"]
    assert (reply.partition, reply.key) == (3, b"0:x")
    headers = dict(reply.headers)
    assert headers["ce_id"].decode() == derived_id("#0:x", "h.say", 0)
    assert headers["ce_correlationid"] == headers["ce_causationid"] == b"0:x"
    assert "ce_replytopic" not in headers


async def test_who_is_not_asked_does_not_reply(make: Make) -> None:
    """The same handler takes events that ask for no reply."""
    trial = make()
    bus = EventBus(Producer(KafkaConfig()), current_attempt)
    asked: list[bool] = []

    async def do(event: Try) -> None:
        asked.append(await bus.reply(event))

    trial.handler("say", do)
    trial.start()
    arrive(trial)
    await trial.settled(1)
    assert (asked, trial.sent) == ([False], [])
