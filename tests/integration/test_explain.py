"""`faust -A app explain` on a real Kafka: one question for each answer."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.storage.changelog import ATTEMPTS, DEAD
from tests.integration.conftest import settings_of
from tests.integration.house import House, wait_for
from tests.integration.test_start import faust, one_line

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
        code, output = faust("explain", "things", *arguments, "--json", cwd=house.checkout, **settings)
        assert code == 0, output
        return [json.loads(line) for line in output.splitlines()]

    return explain


def test_each_answer(house: House, ask: Ask) -> None:
    """Handled, a duplicate, dead, parked, in back-off, behind it, in hand, waiting; and then nobody reads."""
    house.build(HANDLER, options=', on_dead_letter="sequence"')
    worker = house.start(FAILURES__HANDLERTIMEOUTS="0")
    house.send(
        house.thing("a", 1), house.thing("a", 1), house.thing("b", 1, "bad"), house.thing("b", 2),
        house.thing("x", 1, kind="things.Other"), house.thing("c", 1, "wait"), house.thing("d", 1, "away"),
        house.thing("d", 2), house.thing("c", 2), house.thing("e", 1), house.thing("w", 1),
    )  # fmt: skip
    wait_for(lambda: len(house.live(ATTEMPTS)) == 1 and len(house.live(DEAD)) == 2)
    wait_for(lambda: worker.rows("count").get("w") == 1)

    def state(offset: int) -> str:
        [answer] = ask("0", str(offset))
        return str(answer["state"])

    assert [state(offset) for offset in range(12)] == [
        "handled", "duplicate", "dead letter", "parked", "ignored", "next", "in back-off", "behind", "behind",
        "handled", "handled", "not written",
    ]  # fmt: skip
    [duplicate], [parked], [behind] = ask("0", "1"), ask("0", "3"), ask("0", "7")
    assert "handled at offset 0" in duplicate["why"]
    assert parked["action"] == f"faust -A app dlq redrive {house.topic}/0/2"
    assert "offset 6, which is agents.things.note has failed 1 times" in behind["why"]
    assert [(answer["offset"], answer["state"]) for answer in ask("--key", "b")] == [(2, "dead letter"), (3, "parked")]
    assert [answer["offset"] for answer in ask("--id", "d-2")] == [7]
    house.kill(worker)
    assert [state(offset) for offset in (2, 5, 7)] == ["dead letter", "nobody reads", "nobody reads"]


def test_what_was_done_about_a_letter(house: House, ask: Ask) -> None:
    """Redriven, dropped; and what people see who ask for something that is not there."""
    house.build(HANDLER)
    worker = house.start()
    house.send(house.thing("a", 1, "bad"), house.thing("b", 1, "bad"))
    house.wait_settled(2, worker)
    (house.checkout / "mended").touch()
    settings = settings_of(house.kafka, house.folder / "asked")

    def dlq(action: str, offset: int) -> None:
        code, output = faust("dlq", action, f"things/0/{offset}", "--yes", cwd=house.checkout, **settings)
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
