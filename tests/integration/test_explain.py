"""`faust -A app explain` on a real Kafka: one question for each answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.records_to_delete import RecordsToDelete

from famulus.observability import metric_definitions as c
from famulus.state.changelog import ATTEMPTS, DEAD
from tests.integration.conftest import settings_of
from tests.integration.test_console import Browser, words
from tests.integration.test_door import tokens_of
from tests.integration.test_metrics import families, series, value
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.dead_letters import in_transaction
from tests.support.on_kafka.house import House, wait_for

HANDLER = """
from app import PermanentError, TransientError


@handles(Thing, retry=Retry(attempts=3, wait_initial_s=120, wait_max_s=120, jitter=0))
async def note(thing: Thing) -> None:
    if thing.note == "bad" and not Path("mended").exists():
        raise PermanentError("no")
    if thing.note == "away":
        raise TransientError("no answer")
    if thing.note == "wait":
        await asyncio.sleep(600)
    count[thing.key] += 1
"""
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ask(house: House) -> Ask:
    """What the command answers, as programs see it."""

    def explain(*arguments: str) -> list[dict[str, Any]]:
        settings = settings_of(house.kafka, house.folder / "asked")
        code, output = faust(
            "explain", "things", *arguments, "--json", cwd=house.checkout, **settings
        )
        assert code == 0, output
        return [json.loads(line) for line in output.splitlines()]

    return explain


def test_each_answer(house: House, ask: Ask) -> None:
    """Handled, a duplicate, dead, parked, in back-off, behind it, in hand, waiting; and then nobody reads."""
    house.build(HANDLER, options=', on_dead_letter="sequence"')
    worker = house.start(FAILURES__HANDLERTIMEOUTS="0")
    house.send(
        house.thing("a", 1),
        house.thing("a", 1),
        house.thing("b", 1, "bad"),
        house.thing("b", 2),
        house.thing("x", 1, kind="things.Other"),
        house.thing("c", 1, "wait"),
        house.thing("d", 1, "away"),
        house.thing("d", 2),
        house.thing("c", 2),
        house.thing("e", 1),
        house.thing("w", 1),
    )
    wait_for(lambda: len(house.live(ATTEMPTS)) == 1 and len(house.live(DEAD)) == 2)
    wait_for(lambda: worker.rows("count").get("w") == 1)

    def state(offset: int) -> str:
        [answer] = ask("0", str(offset))
        return str(answer["state"])

    assert [state(offset) for offset in range(12)] == [
        "handled",
        "duplicate",
        "dead letter",
        "parked",
        "ignored",
        "next",
        "in back-off",
        "behind",
        "behind",
        "handled",
        "handled",
        "not written",
    ]
    [duplicate], [parked], [behind] = ask("0", "1"), ask("0", "3"), ask("0", "7")
    assert "handled at offset 0" in duplicate["why"]
    assert parked["action"] == f"faust -A app dlq redrive {house.topic}/0/2"
    assert "offset 6, which is agents.things.note has failed 1 times" in behind["why"]
    assert [(answer["offset"], answer["state"]) for answer in ask("--key", "b")] == [
        (2, "dead letter"),
        (3, "parked"),
    ]
    assert [answer["offset"] for answer in ask("--id", "d-2")] == [7]
    house.kill(worker)
    assert [state(offset) for offset in (2, 5, 7)] == [
        "dead letter",
        "nobody reads",
        "nobody reads",
    ]


def test_what_holds_an_event_up(house: House, ask: Ask) -> None:
    """It waits for others of its partition; then somebody pauses more and more, and the widest pause is named."""
    house.build(HANDLER)
    worker = house.start(FAILURES__HANDLERTIMEOUTS="0", WORKER__CONCURRENCY="1")
    house.send(house.thing("a", 1, "wait"), house.thing("b", 1), house.thing("c", 1, "away"))
    settings = settings_of(house.kafka, house.folder / "asked")
    wait_for(lambda: value(series(families(worker)), c.IN_HAND) == 1)
    [waiting] = ask("0", "1")
    assert waiting["state"] == "waiting"
    assert waiting["why"].startswith("1 offsets of the partition, none of its key")
    for what, resume in (
        (["things", "--partition", "0"], f"{house.topic} --partition 0"),
        (["--all"], "--all"),
    ):
        code, output = faust("pause", *what, "--note", "moving", cwd=house.checkout, **settings)
        assert code == 0, output
        wait_for(lambda: bool(worker.get("/subscriptions/")[0]["paused"]))
        [held] = ask("0", "1")
        assert (held["state"], held["action"]) == ("paused", f"faust -A app resume {resume}")
        assert (" by " in held["why"], held["why"].endswith(": moving")) == (True, True)
    house.kill(worker)
    assert ask("0", "1")[0]["state"] == "nobody reads"


def test_what_the_log_has_no_more(house: House, ask: Ask) -> None:
    """Removed by retention, or never an event; and an event that nothing remembers."""
    house.build(HANDLER, options=", dedupe=False")
    worker = house.start()
    house.send(*(house.thing(f"k{n}", n) for n in range(3)))
    in_transaction(house.kafka, [house.thing("t", 1, partition=0)], is_kept=True)
    house.wait_settled(4, worker)
    at = TopicPartition(house.topic, 0)
    house.admin(lambda admin: admin.delete_records({at: RecordsToDelete(1)}))
    assert [ask("0", str(offset))[0]["state"] for offset in (0, 1, 3, 4)] == [
        "gone",
        "settled",
        "settled",
        "no record",
    ]
    code, output = faust(
        "explain",
        "things",
        "1",
        "0",
        cwd=house.checkout,
        **settings_of(house.kafka, house.folder / "asked"),
    )
    assert (code, "has 1 partitions, the first is 0" in one_line(output)) == (78, True), output
    assert worker.stop() == 0


def test_the_page_says_the_same_as_the_command(house: House, ask: Ask) -> None:
    """By place, key and id; what is no question, and what is not found, is said in the page."""
    house.build(HANDLER, options=', on_dead_letter="sequence"')
    worker = house.start()
    house.send(house.thing("b", 1, "bad"), house.thing("b", 2), house.thing("a", 1))
    house.wait_settled(3, worker)
    browser = Browser(worker, tokens_of(worker)[2])
    for query, arguments in (
        ("partition=0&offset=1", ["0", "1"]),
        ("key=b", ["--key", "b"]),
        ("id=a-1", ["--id", "a-1"]),
    ):
        says = words(browser.open(f"/console/explain?topic={house.topic}&{query}"))
        for answer in ask(*arguments):
            expected = f"{house.topic}/0/{answer['offset']}: {answer['state']} {answer['why']}"
            assert expected in says
            assert str(answer["action"]) in says
    for query, status, said in (
        ("", 200, "Name it by its place"),
        ("topic=things&key=nobody", 404, "is like that"),
        ("topic=nothing&key=a", 400, "no subscription reads topic 'nothing'"),
        ("topic=things&partition=0", 400, "Name an event by its partition and its offset"),
        ("topic=things&partition=0&offset=x", 400, "are whole numbers"),
        ("topic=things&partition=7&offset=0", 400, "has 1 partitions"),
        ("topic=things&key=a&id=b", 400, "Name an event by"),
    ):
        assert said in words(browser.open(f"/console/explain?{query}", status)), query
    assert worker.stop() == 0


def test_what_was_done_about_a_letter(house: House, ask: Ask) -> None:
    """Redriven, dropped; and what people see who ask for something that is not there."""
    house.build(HANDLER)
    worker = house.start()
    house.send(house.thing("a", 1, "bad"), house.thing("b", 1, "bad"))
    house.wait_settled(2, worker)
    (house.checkout / "mended").touch()
    settings = settings_of(house.kafka, house.folder / "asked")

    def dlq(action: str, offset: int) -> None:
        code, output = faust(
            "dlq", action, f"things/0/{offset}", "--yes", cwd=house.checkout, **settings
        )
        assert code == 0, output

    dlq("redrive", 0)
    dlq("drop", 1)
    assert [ask("0", "0")[0]["state"], ask("0", "1")[0]["state"]] == ["redriven", "dropped"]
    code, output = faust("explain", "things", "0", "0", cwd=house.checkout, **settings)
    assert (code, "redriven" in output) == (0, True), output
    code, output = faust("explain", "things", "--key", "nobody", cwd=house.checkout, **settings)
    assert (code, "is like that" in one_line(output)) == (1, True), output
    code, output = faust("explain", "things", "0", cwd=house.checkout, **settings)
    assert (code, "name an event" in output) == (2, True), output
    code, output = faust("explain", "nothing", "0", "0", cwd=house.checkout, **settings)
    assert (code, "no subscription reads topic" in one_line(output)) == (78, True), output
