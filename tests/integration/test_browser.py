"""The console in a real browser: every page of a live worker, light and dark, wide and narrow; and what people do.

It needs Debian's chromium. Where it is missing these tests are not run, and say so; in CI they fail
then.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from famulus.dev.browser import MISSING, chromium, is_installed, log_in
from famulus.dev.worker import WorkerProcess
from famulus.web.console.rendering import PAGES
from tests.integration.test_door import tokens_of
from tests.support.on_kafka.house import MENDED, House, wait_for

Scheme = Literal["light", "dark"]
WIDTHS = (1280, 390)


@pytest.fixture(autouse=True)
def _installed() -> None:
    if not is_installed():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)


@pytest.fixture
def worker(house: House) -> WorkerProcess:
    """One that has handled some events, and two that have failed, of which it could handle the next attempt."""
    house.build(MENDED, partitions=2)
    worker = house.start()
    house.send(
        *(house.thing(f"k{n}", n, partition=0) for n in range(5)),
        house.thing("a-rather-long-key-" * 6, 1, "bad", partition=1),
        house.thing("b", 1, "bad", partition=1),
        house.thing("x", 1, kind="things.Other", partition=1),
    )
    house.wait_settled(8, worker)
    (house.checkout / "mended").touch()
    return worker


@contextmanager
def session(
    browser: Browser, worker: WorkerProcess, scheme: Scheme = "light", width: int = 1280
) -> Iterator[Page]:
    """Logged in with the token for acting.

    Whatever the browser complains of, or asks of others, fails the test.
    """
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    context.on(
        "console",
        lambda said: faults.append(said.text) if said.type in {"error", "warning"} else None,
    )
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on(
        "request", lambda sent: None if sent.url.startswith(worker.url) else faults.append(sent.url)
    )
    log_in(page, worker.url, tokens_of(worker)[3])
    yield page
    assert faults == []
    context.close()


def pages_of(house: House) -> list[str]:
    """Every page that there is, those that ask whether something is meant included."""
    topic, letter = quote(house.topic), quote(f"{house.topic}/1/0", safe="")
    return [
        *PAGES,
        "/console/tables/count",
        "/console/tables/count?key=k1",
        f"/console/dead-letters/list?topic={topic}",
        f"/console/dead-letters/list?topic={topic}&by=key&q=nobody",
        f"/console/dead-letters/letter?topic={topic}&origin={letter}",
        f"/console/explain?topic={topic}&partition=1&offset=0",
        f"/console/explain?topic={topic}&key=k1",
        f"/console/redrive?topic={topic}&origin={letter}",
        f"/console/drop?topic={topic}&origin={letter}",
        f"/console/pause?topic={topic}&partition=1",
        "/console/resume?topic=*",
    ]


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_every_page_fits_and_is_quiet(house: House, worker: WorkerProcess, scheme: Scheme) -> None:
    """Light or dark, wide or narrow: nothing to scroll sideways, no error, no request to others."""
    with chromium() as browser:
        for width in WIDTHS:
            with session(browser, worker, scheme, width) as page:
                for path in pages_of(house):
                    answer = page.goto(worker.url + path)
                    assert answer is not None
                    assert answer.ok, (path, answer.status)
                    expect(page.get_by_role("heading", level=1)).to_be_visible()
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, (path, wide)
                    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
                    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    assert worker.stop() == 0


def test_a_letter_is_redriven_and_a_partition_paused_by_hand(
    house: House, worker: WorkerProcess
) -> None:
    """By the buttons, each after a question; an overview that is open meanwhile shows it without being asked."""
    with chromium() as browser, session(browser, worker) as page:
        overview = page.context.new_page()
        overview.goto(f"{worker.url}/console")
        expect(overview.get_by_role("img", name="records/s")).to_be_visible(timeout=10_000)
        handled = overview.locator("dl.figures div", has_text="handled").locator("dd")
        expect(handled).to_have_text("5")
        page.goto(f"{worker.url}/console/dead-letters")
        page.get_by_role("link", name="Redrive").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text(
            "Redrive 2 dead letters to group"
        )
        page.get_by_label("Why").fill("was mended")
        page.get_by_role("button", name="Redrive").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("2 letters redriven")
        overview.bring_to_front()
        expect(handled).to_have_text("7", timeout=10_000)

        page.bring_to_front()
        page.goto(f"{worker.url}/console/subscriptions")
        page.get_by_role("row", name="1", exact=False).get_by_role(
            "link", name="Pause"
        ).last.click()
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Pause {house.topic}/1?")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("listitem")).to_contain_text(f"{house.topic}/1 is paused since")
        assert [row["partition"] for row in worker.get("/paused/")] == [1]
    wait_for(lambda: worker.rows("count").get("b") == 1)
    assert worker.stop() == 0


def test_without_scripts_nothing_is_lost(house: House, worker: WorkerProcess) -> None:
    """The page asks to be fetched again by itself, and what acts needs no script."""
    with chromium() as browser:
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        log_in(page, worker.url, tokens_of(worker)[3])
        assert page.locator('meta[http-equiv="refresh"]').count() == 1
        page.goto(f"{worker.url}/console/pause?topic={quote(house.topic)}")
        page.get_by_role("button", name="Pause").click()
        page.wait_for_url("**/console/subscriptions")
        assert "is paused since" in page.content()
        context.close()
    assert worker.stop() == 0
