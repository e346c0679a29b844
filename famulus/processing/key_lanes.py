"""Lanes: which record of a partition may start next.

Records of one lane never overlap and never change places.

A lane is the record's key, unless the subscription says otherwise. A record starts when no earlier
one of its lane is held; until then it waits behind it, and the records of other lanes go past.
Pure: whoever asks does the work.
"""

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])


class Lanes(Generic[T]):
    """The lanes of one partition, at most *limit* of them held at once.

    The first member of an item is its lane.

    Most records end as soon as they start, so only those that do not are held: `start`, and before
    any other call either nothing, which means that the record has ended, or `hold`, and `finish`
    when it has ended later.
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self.waiting = 0
        self.resting = 0  # lanes that are shut although nobody is at work on their record
        self._limit = self._limit_at_work = limit
        # Held or free again: what waits behind the record of each lane.
        self._busy: dict[Hashable, deque[T]] = {}
        # Lanes of `_busy` that are held no more, each with something waiting.
        self._free: deque[Hashable] = deque()
        self._batches: deque[Iterable[T]] = deque()
        self._batch: Iterator[T] = iter(())
        # The next record that may start; None when none may now.
        self.start = self._starting().__next__

    def add(self, batch: Iterable[T], size: int) -> None:
        """Add *size* records, oldest first. They are taken from *batch* when their turn comes."""
        self._batches.append(batch)
        self.waiting += size

    @property
    def is_full(self) -> bool:
        """Whether as many lanes are held as may be."""
        return self.held >= self._limit

    def _starting(self) -> Iterator[T | None]:
        """What `start` says next, without end: a generator keeps its place in the batch, which is most of the work."""
        while True:
            batch, busy = self._batch, self._busy
            if self.held >= self._limit:
                yield None
            elif self._free:
                yield self._start_free()
            else:
                for item in batch:
                    # Mostly nothing is, and a hash takes longer than to see that.
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
        """The record that was started last, of *lane*, has not ended: the next one of its lane waits for `finish`."""
        self.held += 1
        if lane in self._busy:
            self._free.popleft()  # it came from there, and the lane has more
        else:
            self._busy[lane] = deque()

    def finish(self, lane: Hashable) -> None:
        """The record that *lane* was held for has ended.

        Raises KeyError when there was none (our bug).
        """
        if self._busy[lane]:
            self._free.append(lane)
        else:
            del self._busy[lane]
        self.held -= 1

    def rest(self, lane: Hashable, *, is_held: bool) -> None:
        """The record of *lane* that was started last, or is held, rests: its lane stays shut, but counts no more."""
        if not is_held:
            self.hold(lane)
        self.held -= 1
        self.resting += 1

    def resume(self, item: T) -> None:
        """The record of a lane that rests is to start again, as *item*, before what waits behind it."""
        self._busy[item[0]].appendleft(item)
        self._free.append(item[0])
        self.waiting += 1
        self.resting -= 1

    def stop(self) -> None:
        """Start nothing more, until `go_on`."""
        self._limit = 0

    def go_on(self) -> None:
        """Start again what may, after `stop`."""
        self._limit = self._limit_at_work

    def resize(self, limit: int) -> bool:
        """Hold at most *limit* lanes at once; those that are held beyond it end first.

        Whether that is a change.
        """
        is_other = limit != self._limit_at_work
        self._limit_at_work = limit
        self._limit = limit if self._limit else 0  # of one that is stopped when it goes on
        return is_other

    def clear(self) -> None:
        """Forget what has not started, and what rests."""
        self._batches.clear()
        self._batch = iter(())
        for lane in self._free:
            del self._busy[lane]
        self._free.clear()
        for behind in self._busy.values():
            behind.clear()
        self.waiting = self.resting = 0
