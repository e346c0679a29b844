"""The console of a live worker, as a browser comes to it: log in, and every page says what is so."""

import re
from html import unescape
from urllib.parse import urlencode

from famulus.dev.worker import WorkerProcess
from famulus.web.console.rendering import PAGES, POLICY
from tests.integration.test_door import ask, tokens_of
from tests.support.on_kafka.house import House, wait_for

HANDLER = """
from app import PermanentError


@handles(Thing, retry=Retry(1))
async def note(thing: Thing) -> None:
    if thing.note == "bad":
        raise PermanentError("no")
    while thing.note == "wait" and not Path("go").exists():
        await asyncio.sleep(0.05)
    count[thing.key] += 1
"""
HOSTILE = "<script>alert(1)</script>/../?#\u202e"
TOKEN = "t" * 32
ROWS = 120


class Browser:
    """Logged in at *worker* with *token*."""

    def __init__(self, worker: WorkerProcess, token: str) -> None:
        self._worker = worker
        status, headers, _ = ask(
            worker, "POST", "/login", None, urlencode({"token": token}).encode()
        )
        assert status == 303
        self.home = headers["Location"]
        self.cookie = headers["Set-Cookie"].split(";")[0]

    def open(self, path: str, expected: int = 200) -> str:
        """The page at *path*."""
        status, headers, body = ask(
            self._worker, "GET", path, None, Cookie=self.cookie, Accept="text/html"
        )
        assert status == expected, (path, status, body)
        assert headers["Content-Type"].startswith("text/html")
        assert headers["Content-Security-Policy"] == POLICY
        return body.decode()


def links(page: str, begin: str = "") -> list[str]:
    """Where the page leads."""
    return [
        unescape(link) for link in re.findall(r'href="([^"]*)"', page) if link.startswith(begin)
    ]


def words(page: str) -> str:
    """Its text, without tags, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_every_page_of_a_live_worker(house: House) -> None:
    """From the login on, along the menu; every row of a table is found by leafing, and no key becomes markup."""
    house.build(HANDLER, partitions=2)
    worker = house.start()
    house.send(
        *(house.thing(f"k{number:03}", 1) for number in range(ROWS - 1)),
        house.thing(HOSTILE, 1),
        house.thing("x", 1, "bad"),
    )
    house.wait_settled(ROWS + 1, worker)
    browser = Browser(worker, tokens_of(worker)[2])
    page = browser.open(browser.home)
    assert set(PAGES) <= set(links(page))
    wait_for(lambda: "lag, records 0" in words(browser.open("/console")))
    assert f"records ended {ROWS + 1}" in (says := words(browser.open("/console")))
    assert "At work" in says
    assert "dead letters 1" in says
    assert "What is stuck Nothing." in says
    assert f"handled {ROWS}" in (says := words(browser.open("/console/subscriptions")))
    assert says.count("gets on") == 2
    check_tables(browser)
    says = words(browser.open("/console/dead-letters"))
    assert "1 permanent: PermanentError in agents.things.note" in says
    assert f"faust -A app dlq redrive --topic {house.topic} --cause" in says
    assert f"{house.topic} 0, 1" in words(browser.open("/console/workers"))
    for path, kind in (
        ("/console/style.css", "text/css"),
        ("/console/console.js", "text/javascript"),
    ):
        status, headers, _ = ask(worker, "GET", path, None, Cookie=browser.cookie)
        assert (status, headers["Content-Type"].split(";")[0]) == (200, kind)
    check_end(worker, browser)
    assert worker.stop() == 0


def check_tables(browser: Browser) -> None:
    """Leaf through all rows, look one up, and ask for what is not there."""
    assert "/console/tables/count" in links(browser.open("/console/tables"))
    path, found = "/console/tables/count", list[str]()
    while path:
        page = browser.open(path)
        assert "<script>alert" not in page
        found += links(page, "?key=")
        path = next((f"/console/tables/count{link}" for link in links(page, "?after=")), "")
    assert len(set(found)) == len(found) == ROWS
    [hostile] = [link for link in found if "script" in link]
    assert (
        words(browser.open(f"/console/tables/count{hostile}")).count(
            r"alert(1)</script>/../?#\u202e 1"
        )
        == 1
    )
    found = links(browser.open("/console/tables/count?key=k00"), "?key=")
    assert found == [f"?key=k00{n}" for n in range(10)]
    page = browser.open("/console/tables/count?key=k0")
    [following] = links(page, "?key=k0&amp;after=")
    every = links(page, "?key=") + links(browser.open(f"/console/tables/count{following}"), "?key=")
    assert len({link for link in every if "after" not in link}) == 100
    assert "No partition of this worker has that row" in browser.open(
        "/console/tables/count?key=nobody", 404
    )
    assert "There is no such table" in browser.open("/console/tables/nothing", 404)


def check_end(worker: WorkerProcess, browser: Browser) -> None:
    """The button of every page ends the session, and then they lead to the login."""
    found = re.search(r'name="csrf" value="([^"]+)"', browser.open("/console"))
    assert found is not None
    ended = ask(
        worker,
        "POST",
        "/logout",
        None,
        urlencode({"csrf": found[1]}).encode(),
        Cookie=browser.cookie,
    )
    assert (ended[0], ended[1]["Location"]) == (303, "/login")
    status, headers, _ = ask(
        worker, "GET", "/console", None, Cookie=browser.cookie, Accept="text/html"
    )
    assert (status, headers["Location"]) == (303, "/login")


def test_what_is_stuck_is_named(house: House) -> None:
    """A partition that has halted and an event that takes too long: which, and why."""
    house.build(HANDLER, options=', on_dead_letter="halt"', partitions=2)
    worker = house.start(WORKER__DEADLINES="0.5")
    house.send(house.thing("a", 1, "wait", partition=0), house.thing("b", 1, "bad", partition=1))
    browser = Browser(worker, tokens_of(worker)[2])
    wait_for(
        lambda: "in hand for" in (says := words(browser.open("/console"))) and "halted:" in says
    )
    says = words(browser.open("/console"))
    assert "Not ready" in says
    assert f"{house.topic}/1 halted: " in says
    assert f"{house.topic}/0/0 in hand for" in says
    assert "by agents.things.note" in says
    says = words(browser.open("/console/subscriptions"))
    assert says.count("halted: ") == says.count("gets on") == 1
    (house.checkout / "go").touch()
    wait_for(lambda: "in hand for" not in words(browser.open("/console")))
    assert worker.stop() == 0


def test_secrets_of_the_settings_are_stars(house: House) -> None:
    """The page has what `config show` has."""
    house.build()
    worker = house.start(ready=0, WORKER__READTOKEN=TOKEN)
    house.wait_log(worker, "Ready")
    page = Browser(worker, TOKEN).open("/console/settings")
    assert TOKEN not in page
    assert "Worker.ReadToken *** WORKER__READTOKEN" in words(page)
    assert f"Kafka.ConsumerConfig.GroupId {house.group} KAFKA__CONSUMERCONFIG__GROUPID" in words(
        page
    )
