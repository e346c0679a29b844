"""Pages that are open are kept up to date by streams: what comes, when they end, and how many there may be."""

import json
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse
from typing import cast
from urllib.parse import urlencode

from famulus.dev.worker import WorkerProcess
from famulus.web.console.stream import STREAMS_MAX
from famulus.webserver.auth import HEADERS
from tests.integration.test_console import Browser, words
from tests.integration.test_door import OPENER, ask, tokens_of
from tests.support.on_kafka.house import COUNTING, House

EVENTS = "text/event-stream"
QUICK_S = 8.0  # well below what a stream lasts by itself


def stream(worker: WorkerProcess, browser: Browser, page: str = "/console") -> HTTPResponse:
    """An open one."""
    url = f"{worker.url}/console/events?{urlencode({'page': page})}"
    request = urllib.request.Request(url, headers={"Accept": EVENTS, "Cookie": browser.cookie})
    return cast(HTTPResponse, OPENER.open(request, timeout=30))


def lines_of(of: HTTPResponse) -> Iterator[str]:
    """The text of each main part that comes, until the stream ends."""
    while line := of.readline():
        if line.startswith(b"data: "):
            yield words(json.loads(line[6:])["main"])


def test_an_open_page_is_told_what_changes(house: House) -> None:
    """What is settled shows, with the charts; a session that is ended takes its streams along."""
    house.build(COUNTING)
    worker = house.start()
    browser = Browser(worker, tokens_of(worker)[2])
    with (
        stream(worker, browser) as events,
        stream(worker, browser, "/console/subscriptions") as partitions,
    ):
        assert HEADERS.items() <= dict(events.headers).items()
        assert events.headers["Content-Type"] == "text/event-stream"
        assert "gets on" in next(lines_of(partitions))
        house.send(*(house.thing(f"k{n}", n) for n in range(7)))
        assert any("records ended 7" in says and "records/s" in says for says in lines_of(events))
        csrf = re.findall(r'name="csrf" value="([^"]+)"', browser.open("/console"))[0]
        began = time.monotonic()
        ask(
            worker,
            "POST",
            "/logout",
            None,
            urlencode({"csrf": csrf}).encode(),
            Cookie=browser.cookie,
        )
        list(lines_of(events))
        list(lines_of(partitions))
        assert time.monotonic() - began < QUICK_S
    assert (
        ask(
            worker,
            "GET",
            "/console/events?page=/console",
            None,
            Cookie=browser.cookie,
            Accept=EVENTS,
        )[0]
        == 401
    )
    assert worker.stop() == 0


def test_there_are_a_few_streams_and_none_holds_up_the_end(house: House) -> None:
    """One more is refused, whoever leaves makes room, and a worker that stops waits for no browser."""
    house.build(COUNTING)
    worker = house.start()
    browser = Browser(worker, tokens_of(worker)[2])
    path = "/console/events?page=/console"
    with ExitStack() as opened:
        for _ in range(STREAMS_MAX):
            assert next(lines_of(opened.enter_context(stream(worker, browser))))
        status, _, body = ask(worker, "GET", path, None, Cookie=browser.cookie, Accept=EVENTS)
        assert (status, b"ask for the page" in body) == (503, True)
    deadline = time.monotonic() + QUICK_S
    while True:
        assert time.monotonic() < deadline
        try:
            events = stream(worker, browser)
        except OSError:
            time.sleep(0.5)
            continue
        break
    with events:
        assert next(lines_of(events))
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < QUICK_S
        list(lines_of(events))


def test_what_is_no_stream_says_so(house: House) -> None:
    """For programs that come without knowing."""
    house.build(COUNTING)
    worker = house.start()
    read = tokens_of(worker)[2]
    assert ask(worker, "GET", "/console/events?page=/console", read)[0] == 406
    assert (
        ask(worker, "GET", "/console/events?page=/console/settings", read, Accept=EVENTS)[0] == 404
    )
    assert worker.stop() == 0
