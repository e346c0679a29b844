"""The worker process itself."""

import os
import subprocess
import sys

import pytest

CODE = """
import ctypes, sys, threading
from app.worker.process import few_arenas

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
    """Else each takes megabytes of its own, and keeps them."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", CODE, *words]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    arenas = found.stderr.count("Arena ")
    assert arenas <= most
    assert words or arenas > 2
