"""Which offset of a partition may be committed: everything below it is finished, whatever the order of finishing was.

received -> finished -> committable. Pure, and a room of its own, because a mistake here loses events: stock Faust
commits past an unfinished record (faust-streaming #606). Offsets that were never received (holes left by compaction
and by transaction markers) are crossed, because only what was received is waited for.
"""

from collections import deque
from collections.abc import Iterable
from itertools import pairwise


class PartitionOffsets:
    """The offsets of one partition during one assignment.

    *next_offset* is what may be committed, None before any; *newest* was received last, -1 before any.
    """

    def __init__(self) -> None:
        self.next_offset: int | None = None
        self._unfinished: deque[int] = deque()
        self._finished: set[int] = set()
        self.newest = -1

    def received(self, offsets: Iterable[int]) -> None:
        """Note records before any work on them. *offsets* ascend. Raises AssertionError if one goes back (our bug)."""
        offsets = list(offsets)
        for before, offset in pairwise((self.newest, *offsets)):
            assert offset > before, f"offset {offset} was received after {before}"
        self._unfinished.extend(offsets)
        self.newest = offsets[-1] if offsets else self.newest

    def finished(self, offset: int) -> None:
        """Mark one record done; *offset* is its own, not + 1. Raises AssertionError if it is not in flight."""
        unfinished = self._unfinished
        if unfinished and unfinished[0] == offset and not self._finished:  # in order, as nearly always
            unfinished.popleft()
            self.next_offset = offset + 1
            return
        head = unfinished[0] if unfinished else self.newest + 1
        assert head <= offset <= self.newest, f"offset {offset} is not in flight"
        self._finished.add(offset)
        while self._unfinished and self._unfinished[0] in self._finished:
            head = self._unfinished.popleft()
            self._finished.discard(head)
            self.next_offset = head + 1

    @property
    def in_flight(self) -> int:
        """Records received and not yet below `next_offset`."""
        return len(self._unfinished)
