"""Dead letters and a worker: what failed comes back, is handled once, in the order of its key, or fails again."""

from pathlib import Path
from typing import Any

import pytest

from famulus.dev.worker import WorkerProcess
from tests.support.on_kafka.dead_letters import Failed
from tests.support.on_kafka.house import House, wait_for

FAILING = """
from app import PermanentError


@handles(Thing)
async def note(thing: Thing) -> None:
    if thing.note == "wrong" and not Path("mended").exists():
        raise PermanentError("not yet")
    count[thing.key] = count[thing.key] * 10 + thing.number
"""
TWO = """
from app import PermanentError


@handles(Thing, retry=Retry(attempts=1), retry_topics=["1s"])
async def mail(thing: Thing) -> None:
    count[thing.key + "/mail"] += 1
    if not Path("mended").exists():
        raise ConnectionError("no answer")


@handles(Thing)
async def note(thing: Thing) -> None:
    count[thing.key] += 1
"""


class Returning(Failed):
    """A house whose worker is at work."""

    def __init__(self, house: House) -> None:
        super().__init__(house)
        self.worker: WorkerProcess | None = None

    def start(
        self, handlers: str = FAILING, *, options: str = ', on_dead_letter="sequence"'
    ) -> None:
        """Build the house and start its worker."""
        self.house.build(handlers, options=options)
        self.worker = self.house.start()

    def rows(self) -> dict[str, Any]:
        """The counts of the worker."""
        assert self.worker is not None
        return self.worker.rows("count")

    def wait_rows(self, **expected: int) -> None:
        """Wait until the counts are that."""
        wait_for(lambda: self.rows() == expected, why=lambda: f"{self.rows()}, not {expected}")

    def wait_open(self, *places: str) -> None:
        """Wait until these letters are open."""
        wait_for(
            lambda: self.open() == list(places), why=lambda: f"{self.open()}, not {list(places)}"
        )

    def mend(self) -> None:
        """From now on nothing fails."""
        (self.house.checkout / "mended").touch()

    def redrive(self, *arguments: str) -> str:
        """Send back; it must succeed."""
        code, output = self.dlq("redrive", *arguments, "--yes")
        assert code == 0, output
        return output


@pytest.fixture
def failed(house: House) -> Returning:
    """A house whose worker is at work, later."""
    return Returning(house)


def wrong(house: House, key: str, *numbers: int) -> list[Any]:
    """Events of a key; the first one fails."""
    return [
        house.thing(key, number, "wrong" if number == numbers[0] else "", partition=0)
        for number in numbers
    ]


def test_what_failed_and_what_waited_is_handled_once_in_order(failed: Returning) -> None:
    """However often it is sent back."""
    failed.start()
    house = failed.house
    house.send(*wrong(house, "a", 1, 2, 3), house.thing("b", 7, partition=0))
    failed.wait_rows(b=7)
    failed.wait_open("0/0", "0/1", "0/2")
    kinds = [line["failure"] for line in failed.lines("list", "--each")]
    assert kinds == ["permanent", "parked", "parked"]

    code, output = failed.dlq("redrive", "things/0/0", "--dry-run")
    assert code == 1, output
    assert "would fail again in agents.things.note: PermanentError: not yet" in output
    failed.redrive("things/0/1")
    wait_for(lambda: [line["hops"] for line in failed.lines("list", "--each")] == [1, 1, 0])
    assert [line["failure"] for line in failed.lines("list", "--each")] == kinds
    assert failed.rows() == {"b": 7}

    failed.mend()
    failed.redrive("--key", "a")
    failed.wait_rows(a=123, b=7)
    assert failed.open() == []
    house.send(house.thing("a", 4, partition=0))
    failed.wait_rows(a=1234, b=7)
    failed.redrive("--everything", "--all")
    house.send(house.thing("a", 5, partition=0))
    failed.wait_rows(a=12345, b=7)
    assert failed.open() == []


def test_what_is_dropped_holds_back_nobody(failed: Returning) -> None:
    """What waits behind it goes on when it is sent back, and so does what comes anew."""
    failed.start()
    house = failed.house
    house.send(*wrong(house, "a", 1, 2))
    failed.wait_open("0/0", "0/1")
    code, output = failed.dlq("drop", "things/0/0", "--yes")
    assert code == 0, output
    failed.redrive("--key", "a")
    failed.wait_rows(a=2)
    house.send(house.thing("a", 3, partition=0))
    failed.wait_rows(a=23)
    assert failed.open() == []


def test_an_edited_event_is_handled(failed: Returning, tmp_path: Path) -> None:
    """As the event that it was: its id, its place."""
    failed.start(options="")
    failed.house.send(*wrong(failed.house, "a", 1))
    failed.wait_open("0/0")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/wrong/right/' \"$1\"\n")
    editor.chmod(0o755)
    code, output = failed.dlq("redrive", "things/0/0", "--edit", "--yes", EDITOR=str(editor))
    assert code == 0, output
    failed.wait_rows(a=1)
    failed.redrive("--everything", "--all")
    failed.house.send(failed.house.thing("a", 2, partition=0))
    failed.wait_rows(a=12)


def test_only_the_handler_that_failed_has_it_again(failed: Returning) -> None:
    """Where the others were done with the event, since it went through a retry topic."""
    failed.start(TWO, options="")
    house = failed.house
    house.send(house.thing("a", 1, partition=0))
    failed.wait_open("0/0")
    [line] = failed.lines("list", "--each")
    assert (line["only"], line["failure"]) == ("agents.things.mail", "exhausted")
    failed.mend()
    failed.redrive("--everything")
    failed.wait_rows(a=1, **{"a/mail": 1})
    failed.redrive("--everything", "--all")
    house.send(house.thing("b", 1, partition=0))
    failed.wait_rows(a=1, b=1, **{"a/mail": 1, "b/mail": 1})
