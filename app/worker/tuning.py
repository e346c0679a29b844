"""What a worker's process asks of the allocator, the garbage collector and the event loop's clock."""

import asyncio
import ctypes
import gc
import os
import select
from contextlib import suppress
from selectors import SelectorKey
from typing import Any

COLLECT_AT = 10_000, 20, 50  # new objects; younger and middle generations before the next one has its turn
M_ARENA_MAX, ARENAS = -8, 2  # the first is from malloc.h
EXACT_S = 0.05  # of longer waits a millisecond is too little to matter
FD_SETSIZE = 1024  # select(2) can watch no descriptor from there on


def few_arenas() -> None:
    """Have all threads share two of glibc's arenas, unless `MALLOC_ARENA_MAX` says otherwise.

    Each thread of RocksDB's would get one of its own, up to eight for each core, and none gives back what lies between
    two blocks that are in use: 50 MB of 340 after three million ids. Other C libraries have no such thing.
    """
    with suppress(OSError, AttributeError):
        if "MALLOC_ARENA_MAX" not in os.environ:
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def settle_in() -> None:
    """Have the garbage collector leave alone what was made by now and stays, and come less often.

    Faust and its friends are some 300,000 objects: to look through them takes 30 ms and more, several times a minute,
    in which no event is handled. What handlers leave behind is looked at as before, only in larger portions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


def exact_timers(loop: asyncio.AbstractEventLoop) -> None:
    """Have *loop* end short waits when they are over, where it would do so at the next full millisecond.

    epoll counts in milliseconds, and Python rounds up: a handler that waits for 5 ms waits for 5.5, which is a tenth of
    what a worker does whose handlers wait. select(2) counts in microseconds, and can watch an epoll for it. Loops that
    use something else are left as they are.
    """
    selector: Any = getattr(loop, "_selector", None)  # Any: there is no public way to it
    if not hasattr(select, "epoll") or not isinstance(getattr(selector, "_selector", None), select.epoll):
        return
    poll, watched = selector.select, (selector.fileno(),)
    if watched[0] >= FD_SETSIZE:
        return

    def exactly(timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is not None and 0 < timeout < EXACT_S:
            select.select(watched, (), (), timeout)
            timeout = 0
        return poll(timeout)  # type: ignore[no-any-return]  # as above

    selector.select = exactly
