"""Tuning of a worker process: allocator, garbage collector, timers, and open files."""

import asyncio
import ctypes
import gc
import os
import resource
import select
from collections.abc import Iterator
from contextlib import suppress
from selectors import SelectorKey
from typing import Any

import structlog

# New objects before a collection, and collections of a generation before one of the next older.
COLLECT_AT = 10_000, 20, 50
M_ARENA_MAX, ARENAS = -8, 2  # the first is the parameter of mallopt in malloc.h
EXACT_S = 0.05  # in a longer wait a millisecond does not matter
FILES_MAX = 65_536  # soft limit at most; more than any worker needs
# Estimated open files: of the process, and of each partition's store.
FILES, FILES_OF_PARTITION = 100, 8
OPEN_SHARE = 0.9  # share of the limit of open files from which on a warning is due
log = structlog.get_logger()
FD_SETSIZE = 1024  # select(2) can watch no descriptor from there on


def few_arenas() -> None:
    """Have all threads share two of glibc's arenas, unless `MALLOC_ARENA_MAX` says otherwise.

    By default each thread of RocksDB gets its own arena, up to eight for each core. An arena does
    not return free memory between two blocks in use: that was 50 of 340 MB after three million ids.
    Other C libraries have no such setting, and are left alone.
    """
    with suppress(OSError, AttributeError):
        if "MALLOC_ARENA_MAX" not in os.environ:
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def settle_in() -> None:
    """Freeze the objects that exist, and have the garbage collector run less often.

    Faust and its dependencies have some 300,000 objects. To scan them takes 30 ms and more, several
    times a minute, and no event is handled meanwhile. Garbage of handlers is collected as before,
    in larger portions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)


def many_files(partitions: int) -> None:
    """Raise the soft limit of open files to `files_max`; log one that is too low.

    Each of *partitions* has a store of some files. Many systems have a soft limit of 1,024 and a
    far higher hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = files_max()
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # a system may refuse even its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    for why in about_files(partitions):
        log.warning(why)


def files_of(partitions: int) -> int:
    """Return the estimated open files of a process with stores for so many *partitions*."""
    return FILES + partitions * FILES_OF_PARTITION


def files_max() -> int:
    """Return the limit of open files to which a worker raises its soft limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)


def about_files(partitions: int) -> Iterator[str]:
    """Yield warnings about open files for a worker with stores for so many *partitions*."""
    may, needs = resource.getrlimit(resource.RLIMIT_NOFILE)[0], files_of(partitions)
    if may != resource.RLIM_INFINITY and may < needs:
        yield (
            f"{partitions} partitions need {needs:,} open files, this process may have "
            f"{may:,}: raise the hard limit "
            "(`ulimit -Hn`, or LimitNOFILE= of the unit), or start more workers"
        )
    is_near = OPEN_SHARE * may < (used := _open_files())
    if is_near and may >= needs:
        yield (
            f"{used:,} of {may:,} files are open: something here, a handler perhaps, does "
            "not close what it opens"
        )


def _open_files() -> int:
    with suppress(OSError):
        return sum(1 for _ in os.scandir("/proc/self/fd"))
    return 0


def exact_timers(loop: asyncio.AbstractEventLoop) -> None:
    """Have *loop* end short waits on time instead of at the next full millisecond.

    epoll counts in milliseconds, and Python rounds up: a handler that waits for 5 ms waits for 5.5,
    which is a tenth of the throughput of a worker whose handlers wait. select(2) counts in
    microseconds, and can watch an epoll. Loops that use something else stay as they are.
    """
    selector: Any = getattr(loop, "_selector", None)  # Any: there is no public way to it
    if not hasattr(select, "epoll") or not isinstance(
        getattr(selector, "_selector", None), select.epoll
    ):
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
