"""Lanes: which record of a partition may start next. Records of one lane never overlap and never change places.

A lane is the record's key, unless the subscription says otherwise. A record starts when no earlier one of its lane is
in hand; until then it waits behind it, and the records of other lanes go past. Pure: whoever asks does the work.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """The lanes of one partition, at most *limit* of them at work at once."""

    def __init__(self, limit: int) -> None:
        self.at_work = 0
        self.waiting = 0
        self._limit = limit
        self._busy: dict[Hashable, deque[T] | None] = {}  # what waits behind the record in hand of each lane
        self._ready: deque[tuple[Hashable, T]] = deque()  # their lane has just become free
        self._batches: deque[Iterable[tuple[Hashable, T]]] = deque()
        self._batch: Iterator[tuple[Hashable, T]] = iter(())

    def add(self, batch: Iterable[tuple[Hashable, T]], size: int) -> None:
        """Add *size* records, oldest first, each with its lane. They are taken from *batch* when their turn comes."""
        self._batches.append(batch)
        self.waiting += size

    def start(self) -> tuple[Hashable, T] | None:
        """The next record that may start, with its lane, which is busy until `finish`; None when none may now."""
        if self.at_work >= self._limit or not self.waiting:
            return None
        if self._ready:
            started = self._ready.popleft()
        else:
            busy = self._busy
            for started in self._batch:
                lane = started[0]
                if lane not in busy:
                    busy[lane] = None
                    break
                behind = busy[lane]
                if behind is None:
                    behind = busy[lane] = deque()
                behind.append(started[1])
            else:
                if not self._batches:
                    return None
                self._batch = iter(self._batches.popleft())
                return self.start()
        self.at_work += 1
        self.waiting -= 1
        return started

    def finish(self, lane: Hashable) -> None:
        """The record in hand of *lane* is done. Raises KeyError when none was in hand (our bug)."""
        behind = self._busy[lane]
        self.at_work -= 1
        if behind:
            self._ready.append((lane, behind.popleft()))
        else:
            del self._busy[lane]

    def clear(self) -> None:
        """Forget what has not started."""
        self._batches.clear()
        self._ready.clear()
        self._batch = iter(())
        self._busy = dict.fromkeys(self._busy)
        self.waiting = 0
