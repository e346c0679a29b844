"""Which offset of a partition may be committed: everything below it is finished, whatever the order of finishing was.

received -> finished -> committable. Pure, and a room of its own, because a mistake here loses events: stock Faust
commits past an unfinished record (faust-streaming #606). Offsets that were never received (holes left by compaction
and by transaction markers) are crossed, because only what was received is waited for.
"""

from collections import deque
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Literal, NamedTuple


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

    def finished_all(self, offsets: Iterable[int]) -> None:
        """The same for many. Raises AssertionError if one of them is not in flight."""
        finished, unfinished = self._finished, self._unfinished
        finished.update(offsets)
        if not finished:
            return
        head = unfinished[0] if unfinished else self.newest + 1
        assert min(finished) >= head, f"offset {min(finished)} is not in flight"
        assert max(finished) <= self.newest, f"offset {max(finished)} is not in flight"
        while unfinished and unfinished[0] in finished:
            head = unfinished.popleft()
            finished.discard(head)
            self.next_offset = head + 1

    @property
    def ahead(self) -> AbstractSet[int]:
        """Offsets that are finished although an earlier one is not."""
        return self._finished

    @property
    def in_flight(self) -> int:
        """Records received and not yet below `next_offset`."""
        return len(self._unfinished)


OnCommitAhead = Literal["ignore", "follow", "fail"]


class StartError(ValueError):
    """The state of a partition does not belong to what its topic holds now."""


class Start(NamedTuple):
    """Where reading a partition begins, and what the state and the group's commit disagree about, if anything."""

    offset: int
    disagreement: str


def start_position(  # four offsets and what to do
    processed: int, committed: int | None, begin: int, end: int, on_commit_ahead: OnCommitAhead
) -> Start:
    """Where to go on when the state says that everything below *processed* is settled: there, because it is the truth.

    A commit that is behind was lost, which costs nothing. One that is ahead was made by somebody else, who skipped
    records: by default that is not followed. *begin* and *end* are those of the log. Raises StartError when the state
    is ahead of the log, or when the commit is ahead of the state and that is to `fail`.
    """
    if processed > end:
        raise StartError(f"the state has processed up to offset {processed}, but the topic ends at {end}: it was made "
                         "anew or lost records")  # fmt: skip
    if committed is not None and committed > processed:
        if on_commit_ahead == "fail":
            raise StartError(f"the committed offset {committed} is ahead of the state, which has processed up to "
                             f"{processed}: somebody else committed")  # fmt: skip
        follow = on_commit_ahead == "follow"
        if not (follow or processed < begin):
            return Start(processed, f"somebody else committed offset {committed}; not followed")
        if follow:
            return Start(max(committed, begin), f"somebody else committed offset {committed}; followed")
    if processed < begin:
        return Start(begin, f"records {processed} to {begin - 1} are gone from the topic and were never handled")
    if committed is not None and committed < processed:
        return Start(processed, f"the commit of {committed} is behind; the state goes on where it is")
    return Start(processed, "")
