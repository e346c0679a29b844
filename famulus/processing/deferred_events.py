"""Deferred events of one partition.

The lane of each stays blocked until its condition is met or the partition is revoked.
"""

from collections.abc import Callable, Hashable

from famulus.processing.deferral import Cancel, Defer, RetryContext
from famulus.processing.key_lanes import Lanes
from famulus.processing.pipeline import WorkItem


class DeferredEvents:
    """The deferred events of *lanes*. *on_resumed* is called when one may start again."""

    def __init__(self, lanes: Lanes[WorkItem], on_resumed: Callable[[], None]) -> None:
        self._lanes, self._on_resumed = lanes, on_resumed
        self._of: dict[Hashable, tuple[WorkItem, Cancel]] = {}  # by lane

    def add(self, work: WorkItem, rest: Defer) -> None:
        """Add the event of *work*, whose lane is blocked already."""
        lane = work[0]
        self._of[lane] = (*work[:2], rest.past, *work[3:]), rest.until(lambda: self._resume(lane))

    def _resume(self, lane: Hashable) -> None:
        if lane in self._of:
            work, _ = self._of.pop(lane)
            self._lanes.resume(work)
            self._on_resumed()

    def let_go(self) -> None:
        """Cancel all waits, and leave the events to the next owner of the partition."""
        for work, cancel in self._of.values():
            cancel()
            leave(work[2])
        self._of.clear()


def leave(past: RetryContext | None) -> None:
    """End the unit of work of an event that is left to the next owner."""
    if past is not None and past.unit is not None:
        past.unit.end()
