"""The pages about dead letters: what the commands say, found by cause, key, id and place, and leafed through."""

import pytest

from famulus.serialization.records import ProducerRecord
from famulus.web.console.dead_letters import PAGE_LETTERS
from tests.integration.test_console import Browser, links, words
from tests.integration.test_door import tokens_of
from tests.support.on_kafka.dead_letters import Failed
from tests.support.on_kafka.house import COUNTING, House

MANY = PAGE_LETTERS + 10


@pytest.fixture
def failed(house: House) -> Failed:
    """Many events that failed, one whose value is no event, and one of another group's."""
    house.build(COUNTING)
    failed = Failed(house)
    wrong = ProducerRecord(
        house.topic,
        b"k",
        b'{"key":"k","number":"three","extra":1}',
        [("ce_type", b"things.Thing")],
        0,
    )
    events = failed.read(
        *(house.thing(f"k{n}", n, "<b>") for n in range(MANY)), house.thing("good", 1), wrong
    )
    failed.fail(
        *(failed.letter(event) for event in events[:MANY]),
        failed.letter(events[MANY + 1], "poison"),
        failed.letter(events[0], group="billing"),
    )
    return failed


def test_letters_are_found_and_leafed_through(failed: Failed) -> None:
    """Every one once by its cause; one by its key, its id or its place; and what is not there is said."""
    worker = failed.house.start()
    browser = Browser(worker, tokens_of(worker)[2])
    page = browser.open("/console/dead-letters")
    says = words(page)
    assert f"{MANY} permanent: PermanentError in agents.things.note" in says
    assert "1 poison: DecodeError" in says
    assert not links(page, "/console/redrive")
    assert links(
        Browser(worker, tokens_of(worker)[3]).open("/console/dead-letters"), "/console/redrive"
    )
    path, found = links(page, "/console/dead-letters/list")[0], list[str]()
    while path:
        page = browser.open(path)
        found += links(page, "/console/dead-letters/letter")
        following = [link for link in links(page, "?") if "Later" in page]
        path = f"/console/dead-letters/list{following[-1]}" if following else ""
    assert len(set(found)) == len(found) == MANY
    at = "/console/dead-letters/list?topic=things"
    for query in ("by=key&q=k7", "by=id&q=k7-7", "by=origin&q=things/0/7"):
        assert "1 to 1 of 1" in words(browser.open(f"{at}&{query}")), query
    assert "No letters are like that" in words(browser.open(f"{at}&by=key&q=nobody"))
    assert "Search by" in words(browser.open(f"{at}&by=colour&q=red", 400))
    assert "is not TOPIC/PARTITION/OFFSET" in words(browser.open(f"{at}&by=origin&q=x", 400))
    assert worker.stop() == 0


def test_a_letter_has_all_that_is_known(failed: Failed) -> None:
    """Its cause, its value, what is wrong with it by this code, and in what it differs from the last good event."""
    worker = failed.house.start()
    browser = Browser(worker, tokens_of(worker)[2])
    page = browser.open(f"/console/dead-letters/letter?topic=things&origin=things/0/{MANY + 1}")
    says = words(page)
    assert "poison: DecodeError" in says
    assert "It does not decode with this code: $.number: Expected `int`, got `str`" in says
    assert f"Beside {failed.house.topic}/0/{MANY}, the last good event" in says
    assert "$.number at fault" in says
    assert "$.extra added" in says
    assert (
        failed.lines("show", f"things/0/{MANY + 1}")[0]["compared_with"]
        == f"{failed.house.topic}/0/{MANY}"
    )
    assert "no good event of its type" in words(
        # Nothing is before it.
        browser.open("/console/dead-letters/letter?topic=things&origin=things/0/0")
    )
    page = browser.open("/console/dead-letters/letter?topic=things&origin=things/0/3")
    assert "&lt;b&gt;" in page
    assert "It decodes with this code." in words(page)
    assert failed.dlq("drop", "things/0/3", "--yes", "--note", "was a test")[0] == 0
    says = words(browser.open("/console/dead-letters/letter?topic=things&origin=things/0/3"))
    assert "dropped" in says
    assert ": was a test" in says
    assert "There is no such letter" in words(
        browser.open(f"/console/dead-letters/letter?topic=things&origin=things/0/{MANY}", 404)
    )
    assert worker.stop() == 0
