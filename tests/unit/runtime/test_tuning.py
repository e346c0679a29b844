"""Tests of process settings: malloc arenas, timers of the event loop and open files."""

import asyncio
import os
import resource
import select
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from famulus.runtime.tuning import FILES_MAX, exact_timers, many_files

CODE = """
import ctypes, sys, threading
from famulus.runtime.tuning import few_arenas

if sys.argv[1:] == ["few"]:
    few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
all_there = threading.Barrier(8)


def work():
    libc.malloc(1000)
    all_there.wait()


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("words", "most"), [(["few"], 2), ([], 100)])
def test_threads_share_what_is_allocated(words: list[str], most: int) -> None:
    """Each arena keeps megabytes of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", CODE, *words]
    found = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    arenas = found.stderr.count("Arena ")
    assert arenas <= most
    assert words or arenas > 2


@pytest.fixture
def loop() -> Iterator[asyncio.SelectorEventLoop]:
    """Yield an event loop as a worker has it."""
    made = asyncio.SelectorEventLoop()
    exact_timers(made)
    yield made
    made.close()


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="Linux's")
def test_short_waits_are_not_rounded_to_milliseconds(
    loop: asyncio.SelectorEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer waits, and those that are over, are left to epoll."""
    waits: list[float] = []
    ready = select.select

    def noted(watched: tuple[int], write: tuple[int], errors: tuple[int], timeout: float) -> object:
        waits.append(timeout)
        return ready(watched, write, errors, timeout)

    monkeypatch.setattr(select, "select", noted)
    for wait_s in (0.0012, 0.06, 0, -1, None):
        loop.call_soon_threadsafe(lambda: None)  # so that no call really waits
        loop._selector.select(wait_s)  # type: ignore[attr-defined]  # as the loop does
    assert waits == [0.0012]


def test_what_is_ready_is_told_by_a_short_wait(loop: asyncio.SelectorEventLoop) -> None:
    here, there = socket.socketpair()
    with here, there:
        loop.add_reader(here, lambda: None)
        there.send(b"data")
        # As the loop does.
        [(key, event)] = loop._selector.select(0.04)  # type: ignore[attr-defined]
        assert (key.fileobj, event) == (here, selectors.EVENT_READ)
        loop.remove_reader(here)


def test_another_selector_is_left_as_it_is() -> None:
    """Other event loops have other selectors."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    exact_timers(loop)
    assert "select" not in vars(loop._selector)  # type: ignore[attr-defined]
    loop.close()


def test_as_many_files_may_be_open_as_the_system_lets_us() -> None:
    """The soft limit is raised; a hard limit that is too low is logged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with capture_logs() as logs:
            many_files(10)
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, FILES_MAX)
            many_files(10**9)
        assert [entry["event"].partition(" open files")[0] for entry in logs] == [
            "1000000000 partitions need 8,000,000,100"
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
