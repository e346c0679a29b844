"""A headless browser for tests and pictures of the console: Chromium, driven by Playwright."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

from famulus.errors import UnavailableError

MISSING = "chromium is missing: apt-get install chromium"


def is_installed() -> bool:
    """Return True if Chromium is installed on this machine."""
    return shutil.which("chromium") is not None


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start it, and end it at the end. Raises UnavailableError when it is not installed.

    Meanwhile this thread can run no event loop of its own: that is Playwright's.
    """
    path = shutil.which("chromium")
    if path is None:
        raise UnavailableError(MISSING)
    with sync_playwright() as playwright:
        # Whoever runs as root, as in a container, has no sandbox; every page here is our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def log_in(page: Page, url: str, token: str) -> None:
    """Begin a session at the worker whose web server is at *url*; *page* shows its console then."""
    page.goto(f"{url}/login")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/console")
