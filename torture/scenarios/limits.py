"""What the system gives a process, descriptors and address space: taken from a worker while it runs."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from torture.faults import Fault, Hit, always, next_slot
from torture.stage import Stage

FEW = 64  # descriptors, fewer than any worker needs
MIB = 2**20


@contextmanager
def _no_descriptors(stage: Stage) -> Iterator[Hit]:
    with _limited(stage, resource.RLIMIT_NOFILE, lambda process: int(process.num_fds()) + 1):
        yield always


@contextmanager
def _no_memory(stage: Stage) -> Iterator[Hit]:
    stage.may_abort = True  # for the rest of the leg: an end is noticed some time later
    with _limited(stage, resource.RLIMIT_AS, lambda process: int(process.memory_info().vms) + MIB):
        yield always


@contextmanager
def _limited(stage: Stage, what: int, limit: Callable[[psutil.Process], int]) -> Iterator[None]:
    """Set a limit of a worker that runs; one that ends meanwhile is started again without it."""
    with suppress(psutil.Error):
        process = psutil.Process(next_slot(stage).running.pid)
        _, most = before = process.rlimit(what)
        process.rlimit(what, (limit(process), most))
        try:
            yield
        finally:
            with suppress(psutil.Error):
                process.rlimit(what, before)
        return
    yield


@contextmanager
def _few_descriptors(stage: Stage) -> Iterator[Hit]:
    """Start a worker where the soft limit is low, as systemd and shells have it: it may raise that itself."""
    slot = next_slot(stage)
    stage.kill(slot)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, before[1]))
    try:
        stage.restart(slot)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    yield lambda: bool(stage.owned(slot))


FAULTS = (
    Fault("no further descriptor", _no_descriptors, 2.0),
    Fault("no further address space", _no_memory, 2.0),
    Fault("soft limit of 64 descriptors at the start", _few_descriptors, 0.5),
)
