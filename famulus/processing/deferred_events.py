"""What rests of one partition: each event with its lane shut, until what it waits for is over or the partition goes."""

from collections.abc import Callable, Hashable

from famulus.processing.deferral import Cancel, Defer, RetryContext
from famulus.processing.key_lanes import Lanes
from famulus.processing.pipeline import WorkItem


class DeferredEvents:
    """What rests of *lanes*. *on_resumed* is called when one may start again."""

    def __init__(self, lanes: Lanes[WorkItem], on_resumed: Callable[[], None]) -> None:
        self._lanes, self._on_resumed = lanes, on_resumed
        self._of: dict[Hashable, tuple[WorkItem, Cancel]] = {}  # by lane

    def add(self, work: WorkItem, rest: Defer) -> None:
        """*work* rests; its lane is shut by now."""
        lane = work[0]
        self._of[lane] = (*work[:2], rest.past, *work[3:]), rest.until(lambda: self._resume(lane))

    def _resume(self, lane: Hashable) -> None:
        if lane in self._of:
            work, _ = self._of.pop(lane)
            self._lanes.resume(work)
            self._on_resumed()

    def let_go(self) -> None:
        """Leave all of them to whoever has the partition next."""
        for work, cancel in self._of.values():
            cancel()
            leave(work[2])
        self._of.clear()


def leave(past: RetryContext | None) -> None:
    """Leave an event to whoever has the partition next."""
    if past is not None and past.unit is not None:
        past.unit.end()
