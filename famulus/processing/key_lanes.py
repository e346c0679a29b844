"""Lanes: the order in which the records of a partition may start.

Records of one lane never overlap and never change places. A lane is the record's key, unless the
subscription says otherwise. A record starts when no earlier one of its lane is held. Until then it
waits behind that one, and records of other lanes overtake it. Pure: the caller does the processing.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])


class Lanes(Generic[T]):
    """The lanes of one partition, of which at most *limit* are held at once.

    The first member of an item is its lane.

    Most records end as soon as they start, so only the others are held. After `start`, the caller
    either calls nothing, which means that the record has ended, or calls `hold` before any other
    method, and `finish` when the record has ended.
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.waiting = 0
        self.resting = 0  # lanes that are blocked by a deferred record
        self._limit = self._limit_at_work = limit
        # The records that wait in each lane that is held, deferred, or free again.
        self._busy: dict[Hashable, deque[T]] = {}
        # Lanes of `_busy` that are no longer held, each with a record waiting.
        self._free: deque[Hashable] = deque()
        self._batches: deque[Iterable[T]] = deque()
        self._batch: Iterator[T] = iter(())
        # Returns the next record that may start, None when none may now.
        self.start = self._starting().__next__

    def add(self, batch: Iterable[T], size: int) -> None:
        """Add *size* records, oldest first, which are taken from *batch* as they start."""
        self._batches.append(batch)
        self.waiting += size

    @property
    def is_full(self) -> bool:
        """Return whether as many lanes are held as the limit allows."""
        return self.held >= self._limit

    def _starting(self) -> Iterator[T | None]:
        """Yield the results of `start`, without end.

        A generator keeps its position in the batch, which would be most of the work otherwise.
        """
        while True:
            batch, busy = self._batch, self._busy
            if self.held >= self._limit:
                yield None
            elif self._free:
                yield self._start_free()
            else:
                for item in batch:
                    # Mostly no lane is busy, and checking that is faster than hashing the lane.
                    if busy and item[0] in busy:
                        busy[item[0]].append(item)
                        continue
                    self.waiting -= 1
                    yield item
                    if self._free or self.held >= self._limit or batch is not self._batch:
                        break
                else:
                    if self._batches:
                        self._batch = iter(self._batches.popleft())
                    else:
                        yield None

    def _start_free(self) -> T:
        lane = self._free[0]
        behind = self._busy[lane]
        item = behind.popleft()
        if not behind:
            self._free.popleft()
            del self._busy[lane]
        self.waiting -= 1
        return item

    def hold(self, lane: Hashable) -> None:
        """Hold *lane* for the record that was started last, which has not ended.

        The next record of the lane waits for `finish`.
        """
        self.held += 1
        if lane in self._busy:
            self._free.popleft()  # the record came from this free lane, which has more
        else:
            self._busy[lane] = deque()

    def finish(self, lane: Hashable) -> None:
        """Release *lane*, since the record that it was held for has ended.

        Raises KeyError when the lane was not held (a bug of the caller).
        """
        if self._busy[lane]:
            self._free.append(lane)
        else:
            del self._busy[lane]
        self.held -= 1

    def rest(self, lane: Hashable, *, is_held: bool) -> None:
        """Block *lane* for its record, which is deferred: started last, or held.

        The lane no longer counts as held.
        """
        if not is_held:
            self.hold(lane)
        self.held -= 1
        self.resting += 1

    def resume(self, item: T) -> None:
        """Queue *item*, a deferred record, before the records that wait behind it in its lane."""
        self._busy[item[0]].appendleft(item)
        self._free.append(item[0])
        self.waiting += 1
        self.resting -= 1

    def stop(self) -> None:
        """Start nothing more, until `go_on`."""
        self._limit = 0

    def go_on(self) -> None:
        """Start records again after `stop`."""
        self._limit = self._limit_at_work

    def resize(self, limit: int) -> bool:
        """Hold at most *limit* lanes at once, and return whether that is a change.

        Lanes that are held beyond the limit end first.
        """
        is_other = limit != self._limit_at_work
        self._limit_at_work = limit
        self._limit = limit if self._limit else 0  # while stopped, takes effect at `go_on`
        return is_other

    def clear(self) -> None:
        """Forget the records that have not started, and the deferred ones."""
        self._batches.clear()
        self._batch = iter(())
        for lane in self._free:
            del self._busy[lane]
        self._free.clear()
        for behind in self._busy.values():
            behind.clear()
        self.waiting = self.resting = 0
