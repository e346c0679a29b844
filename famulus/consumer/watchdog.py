"""The watchdog: ends the worker when work of a partition waits and makes no progress.

The watchdog knows no particular fault. At each check it asks two questions of a partition: does
anything wait, and has anything changed since the last check? Work that is paused, halted, refused
by Kafka, held by a handler or waiting for another attempt has a reason that is reported elsewhere.
Anything else is a fault of this package, or of code that has cancelled its tasks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from faust.types import TP

from famulus.consumer.assignment import AssignedPartitions
from famulus.errors import InvariantError
from famulus.formatting import number
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.task_pool import TaskPool
from famulus.runtime.periodic import Beat

log = structlog.get_logger()
LOOKS = 6  # checks within the time after which a partition counts as stalled


@dataclass(frozen=True, slots=True)
class Waiting:
    """Work of one partition that waits without a reason.

    *why* describes it; *mark* changes with any progress. The work ends no worker before
    *at_least_s* seconds, because something else has a time limit of its own.
    """

    why: str
    mark: Hashable
    at_least_s: float = 0.0


class Stalls:
    """Times for which work has waited, by partition.

    Pure: each check gets the time since the last one.
    """

    def __init__(self, stalled_s: float, ends_s: float) -> None:
        self._stalled_s, self._ends_s = stalled_s, ends_s
        self._seen: dict[TP, tuple[Waiting, float]] = {}

    def look(self, passed_s: float, waiting: Mapping[TP, Waiting]) -> None:
        """Check once more, *passed_s* seconds after the last time.

        Partitions that are not in *waiting* make progress.
        """
        before, self._seen = self._seen, {}
        for tp, now in waiting.items():
            was, for_s = before.get(tp, (None, 0.0))
            is_same = was is not None and was.mark == now.mark
            self._seen[tp] = now, for_s + passed_s if is_same else 0.0

    @property
    def stalled(self) -> list[str]:
        """Return a description of each stalled partition."""
        return [
            f"{tp.topic}-{tp.partition} stands still for {for_s:.0f} s: {waiting.why}"
            for tp, (waiting, for_s) in self._seen.items()
            if for_s >= self._stalled_s
        ]

    @property
    def is_hopeless(self) -> bool:
        """Return whether a partition has stalled for so long that the worker has to end."""
        return any(
            for_s >= max(self._ends_s, waiting.at_least_s) for waiting, for_s in self._seen.values()
        )


class Watchdog:
    """Watches the *assigned* partitions for work that waits without a reason.

    *unfetched* returns how many records of a partition can be fetched and are not. *is_at_work*
    returns whether partitions are assigned and restored. *on_fault* ends the worker.

    A partition counts as stalled after *stalled_s* seconds and ends the worker after *ends_s*. If
    Kafka has not acknowledged its checkpoint, it ends the worker *send_s* later, since sending has
    a time limit of its own.
    """

    def __init__(
        self,
        assigned: AssignedPartitions,
        unfetched: Callable[[TP], int],
        is_at_work: Callable[[], bool],
        *,
        on_fault: Callable[[Exception], Awaitable[Any]],
        stalled_s: float,
        ends_s: float,
        send_s: float,
    ) -> None:
        self._assigned, self._unfetched, self._is_at_work, self._on_fault = (
            assigned,
            unfetched,
            is_at_work,
            on_fault,
        )
        self._stalls = Stalls(stalled_s, ends_s)
        self._send_s = ends_s + send_s
        self._beat = Beat(stalled_s / LOOKS, self._look)
        self._said: list[str] = []
        self._ending: asyncio.Future[Any] | None = None

    @property
    def stalled(self) -> list[str]:
        """Return a description of each partition that is stalled without a reason."""
        return self._stalls.stalled

    def start(self) -> None:
        """Check every so often from now on."""
        self._beat.start()

    def stop(self) -> None:
        """Stop checking."""
        self._beat.stop()

    def _look(self, passed_s: float) -> None:
        self._stalls.look(passed_s, dict(self._waiting()) if self._is_at_work() else {})
        stalled = self.stalled
        if stalled and not self._said:
            log.error("work waits and nobody works on it", stalled=stalled)
        self._said = stalled
        if self._stalls.is_hopeless:
            self.stop()
            self._ending = asyncio.ensure_future(self._on_fault(InvariantError("; ".join(stalled))))

    def _waiting(self) -> Iterator[tuple[TP, Waiting]]:
        for tp, processor in self._assigned.processors.items():
            if not (
                processor.is_closing or processor.halted or processor.paused or processor.blocked
            ):
                waiting = waiting_of(
                    processor, self._assigned.task_pool, self._unfetched(tp), self._send_s
                )
                if waiting is not None:
                    yield tp, waiting


def waiting_of(
    processor: PartitionProcessor, task_pool: TaskPool, unfetched: int, send_s: float
) -> Waiting | None:
    """Return what work of *processor* waits without a reason, None if there is none.

    *unfetched* is the number of records that can be fetched and are not.
    """
    lanes, checkpoint_loop = processor.lanes, processor.checkpoint_loop
    if checkpoint_loop.group_mark is not None:
        why = "Kafka or the disk has not taken what its events did"
        return Waiting(why, (checkpoint_loop.group_mark, processor.checkpointed_offset), send_s)
    why = ""
    if task_pool.holds(processor):
        pass  # a handler runs, which has a time limit of its own
    elif lanes.held:
        why = f"{number(lanes.held, 'event')} began, and no task carries them"
    elif processor.has_more and (processor.is_listed or not lanes.resting):
        what = number(lanes.waiting, "event") if lanes.waiting else "what was fetched"
        why = "" if task_pool.is_full else f"{what} and all behind it wait to be handled"
    elif lanes.resting:
        pass  # deferred until the next attempt, or until what a handler needs is available again
    elif processor.offsets.in_flight:
        why = f"{number(processor.offsets.in_flight, 'event')} ended, and nothing settles them"
    elif unfetched:
        why = f"{number(unfetched, 'record')} stand in the log, and none is fetched"
    mark = (
        processor.checkpointed_offset,
        processor.position,
        processor.offsets.next_offset,
        lanes.waiting,
        lanes.held,
        lanes.resting,
    )
    return Waiting(why, (mark, unfetched)) if why else None
