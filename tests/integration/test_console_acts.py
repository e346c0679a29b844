"""What the console does on a live worker: it asks first, does it, and writes down who did; nobody else may."""

import json
import re
from html import unescape
from urllib.parse import urlencode

import pytest

from famulus.control.pauses import admin_audit_topic
from famulus.dev.worker import WorkerProcess
from tests.integration.test_console import Browser, links, words
from tests.integration.test_door import ask, tokens_of
from tests.support.on_kafka.dead_letters import Failed
from tests.support.on_kafka.house import MENDED, House, wait_for


def press(
    worker: WorkerProcess, browser: Browser, path: str, **more: str
) -> tuple[int, dict[str, str], str]:
    """Open the page at *path* that asks, and press its button, with *more* in the form: what comes then."""
    page = browser.open(path)
    fields = {
        name: unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', page)
    }
    body = urlencode(fields | more).encode()
    status, headers, answer = ask(
        worker, "POST", path.partition("?")[0], None, body, Cookie=browser.cookie
    )
    return status, headers, answer.decode()


@pytest.fixture
def failed(house: House) -> Failed:
    """Two letters of one cause and one of another, of a worker that was mended since."""
    house.build(MENDED)
    worker = house.start()
    house.send(
        house.thing("a", 1, "bad"),
        house.thing("b", 1, "bad"),
        house.thing("c", 1, kind="things.Thing"),
    )
    house.wait_settled(3, worker)
    worker.stop()
    (house.checkout / "mended").touch()
    return Failed(house)


def test_letters_are_redriven_and_dropped(failed: Failed) -> None:
    """One by its origin, the others by their cause; each is asked for, done once, and written down with its note."""
    house = failed.house
    worker = house.start("two")
    browser = Browser(worker, tokens_of(worker)[3])
    [cause] = {line["cause"] for line in failed.lines("list")}
    one = f"/console/redrive?{urlencode({'topic': house.topic, 'origin': f'{house.topic}/0/0'})}"
    says = words(browser.open(one))
    assert f"Redrive 1 dead letter to group {house.group}?" in says
    assert failed.open() == ["0/0", "0/1"]  # asking does nothing
    status, _, page = press(worker, browser, one, note="was mended")
    assert (status, "1 letter redriven" in words(page)) == (200, True)
    wait_for(lambda: worker.rows("count").get("a") == 1)
    assert "No letter to redrive" in words(browser.open(one))

    status, _, page = press(worker, browser, f"/console/drop?topic={house.topic}&cause={cause}")
    assert (status, "1 letter dropped" in words(page)) == (200, True)
    assert failed.open() == []
    assert [(a["action"], a["offset"], a["who"], a.get("note", "")) for a in failed.audits()] == [
        ("redrive", 0, "web@127.0.0.1", "was mended"),
        ("drop", 1, "web@127.0.0.1", ""),
    ]
    assert "b" not in worker.rows("count")
    assert worker.stop() == 0


def test_what_fails_after_the_question_is_not_meant(failed: Failed) -> None:
    """Whoever said yes has seen what it is about."""
    house = failed.house
    worker = house.start("two")
    browser = Browser(worker, tokens_of(worker)[3])
    [cause] = {line["cause"] for line in failed.lines("list")}
    status, _, page = press(worker, browser, f"/console/drop?topic=things&cause={cause}", until="1")
    assert (status, "0 letters dropped" in words(page)) == (200, True)
    assert failed.open() == ["0/0", "0/1"]
    assert worker.stop() == 0


def test_a_topic_is_paused_and_resumed(house: House) -> None:
    """From the page of the partitions and back to it; it is said there by whom, since when and why."""
    house.build(MENDED, partitions=2)
    worker = house.start()
    browser = Browser(worker, tokens_of(worker)[3])
    path = "/console/subscriptions"
    [one] = [link for link in links(browser.open(path), "/console/pause") if "partition=1" in link]
    status, headers, _ = press(worker, browser, one, note="moving")
    assert (status, headers["Location"]) == (303, path)
    says = words(browser.open(path))
    assert f"{house.topic}/1 is paused since" in says
    assert "by web@127.0.0.1: moving" in says
    house.send(house.thing("k1", 1, partition=1), house.thing("k0", 1, partition=0))
    wait_for(lambda: worker.rows("count") == {"k0": 1})
    [resume] = links(browser.open(path), "/console/resume")
    assert "is paused since" in words(browser.open(resume))
    assert press(worker, browser, resume)[0] == 303
    wait_for(lambda: worker.rows("count") == {"k0": 1, "k1": 1})
    assert "Nothing of" in words(browser.open(resume))
    assert press(worker, browser, "/console/pause?topic=*")[0] == 303
    assert "since everything is: resume that" in words(browser.open(resume, 409))
    audits = [
        json.loads(logged.value or b"")
        for logged in house.logged(topic=admin_audit_topic(house.group))
    ]
    assert [(a["action"], a["what"], a["by"]) for a in audits] == [
        ("pause", f"{house.topic}/1", "web@127.0.0.1"),
        ("resume", f"{house.topic}/1", "web@127.0.0.1"),
        ("pause", "*", "web@127.0.0.1"),
    ]
    assert worker.stop() == 0


def test_who_may_look_may_not_act(house: House) -> None:
    """No button, no question, and no deed: not without the right token, not from another site, not for nothing."""
    house.build(MENDED)
    worker = house.start()
    _, _, read, admin = tokens_of(worker)
    reader, browser = Browser(worker, read), Browser(worker, admin)
    csrf = {
        who: re.findall(r'name="csrf" value="([^"]*)"', who.open("/console"))[0]
        for who in (reader, browser)
    }
    page = reader.open("/console/subscriptions")
    assert not links(page, "/console/pause")
    assert links(browser.open("/console/subscriptions"), "/console/pause")
    pause = f"/console/pause?topic={house.topic}"
    assert "Log in with the token for acting" in words(reader.open(pause, 403))
    for who, sent, expected in (
        (reader, {"csrf": csrf[reader]}, 403),
        (browser, {}, 403),
        (browser, {"csrf": csrf[reader]}, 403),
        (browser, {"csrf": csrf[browser], "topic": "nothing"}, 404),
        (browser, {"csrf": csrf[browser], "partition": "x"}, 400),
    ):
        body = urlencode({"topic": house.topic, **sent}).encode()
        assert (
            ask(worker, "POST", "/console/pause", None, body, Cookie=who.cookie)[0] == expected
        ), sent
    assert worker.get("/paused/") == []
    for query in ("topic=things", "topic=things&cause=x&origin=y", "topic=things&origin=y"):
        browser.open(f"/console/drop?{query}", 400)
    body = urlencode(
        {"topic": "things", "cause": "x", "until": "y", "csrf": csrf[browser]}
    ).encode()
    assert ask(worker, "POST", "/console/drop", None, body, Cookie=browser.cookie)[0] == 400
    browser.open("/console/drop?topic=nothing&cause=x", 404)
    assert worker.stop() == 0
