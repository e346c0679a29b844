"""Which offset of a partition may be committed: everything below it is finished, whatever the order of finishing was.

received -> finished -> committable. Pure, and a room of its own, because a mistake here loses
events: stock Faust commits past an unfinished record (faust-streaming #606). Offsets that were
never received (holes left by compaction and by transaction markers) are crossed, because only what
was received is waited for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

# At the front of the lists, before they are deleted: each time would move all the others.
STALE_RUNS = 1_000


class PartitionOffsets:
    """The offsets of one partition during one assignment.

    *next_offset* is what may be committed, None before any; *newest* was received last, -1 before
    any; *in_flight* is how many were received and are not finished. Behind the newest the log may
    have been read further: see `passed`. What is kept are runs of those in flight: an offset that
    stays unfinished costs one run, however many behind it are finished.
    """

    def __init__(self) -> None:
        self.next_offset: int | None = None
        self.newest = -1
        self.in_flight = 0
        self._passed = 0
        # The unfinished runs, ascending and apart: where each starts, where it ends (one past its
        # last), and one past what was received last before it, which is its start unless there is a
        # hole. The lists begin with *_first* runs that are finished by now. The run after those
        # starts at *_head*, and only its end is kept up in the list.
        self._head = -1
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._befores: list[int] = []
        self._first = 0

    def received(self, offsets: Iterable[int]) -> None:
        """Note records before any work on them.

        *offsets* ascend. Raises AssertionError if one goes back (our bug).
        """
        for start, end in _runs(list(offsets)):
            assert start > self.newest, f"offset {start} was received after {self.newest}"
            if self.in_flight and self._ends[-1] == start:
                self._ends[-1] = end
            else:
                self._starts.append(start)
                self._ends.append(end)
                self._befores.append(self.newest + 1)
                self._head = self._head if self.in_flight else start
            self.newest = end - 1
            self.in_flight += end - start

    def passed(self, position: int) -> bool:
        """Note that there is no record between the newest and *position*.

        Returns whether more may be committed now.

        Transactions end with a mark, compaction leaves holes: nobody will ever finish those.
        """
        self._passed = position
        if self.in_flight or position <= max(self.newest + 1, self.next_offset or 0):
            return False
        self.next_offset = position
        return True

    def finished(self, offset: int) -> None:
        """Mark one record done; *offset* is its own, not + 1.

        Raises AssertionError if it is not in flight.
        """
        # In order, as nearly always.
        if offset == self._head and offset + 1 < self._ends[self._first]:
            self._head = self.next_offset = offset + 1
            self.in_flight -= 1
        else:
            self._finish(offset, offset + 1)

    def finished_all(self, offsets: Iterable[int]) -> None:
        """The same for many, in any order.

        Raises AssertionError if one of them is not in flight.
        """
        for start, end in _runs(sorted(offsets)):
            self._finish(start, end)

    def _finish(self, start: int, end: int) -> None:
        """Mark a run done. All of it was received, so it lies in one of the unfinished runs."""
        starts, ends, befores, first = self._starts, self._ends, self._befores, self._first
        if self.in_flight:
            starts[first] = self._head
        at = bisect_right(starts, start, first) - 1
        stop = ends[at] if at >= first else start
        assert end <= stop, f"offset {max(start, stop)} is not in flight"
        self.in_flight -= end - start
        if starts[at] < start:  # the run's first records stay
            ends[at] = start
            if end < stop:
                starts.insert(at + 1, end)
                ends.insert(at + 1, stop)
                befores.insert(at + 1, end)
            return
        if end < stop:
            starts[at] = befores[at] = end
        elif at > first:
            del starts[at], ends[at], befores[at]
        else:
            self._first += 1
        # As far as something was received: not over the hole before what is unfinished now.
        if at == first:
            self.next_offset = (
                befores[self._first] if self.in_flight else max(self.newest + 1, self._passed)
            )
            self._head = starts[self._first] if self.in_flight else -1
            if self._first >= STALE_RUNS:
                del starts[: self._first], ends[: self._first], befores[: self._first]
                self._first = 0

    def is_finished(self, first: int, last: int) -> bool:
        """Whether nothing from *first* to *last* is in flight."""
        if not self.in_flight or last < self._head:
            return True
        return self._ends[bisect_right(self._starts, last, self._first) - 1] <= first

    def ahead(self) -> Iterator[tuple[int, int]]:
        """Runs of what is finished although an earlier one is not: start and end.

        Holes of the log may be in them.
        """
        first = self._first
        for start, end in zip(
            self._ends[first:], [*self._befores[first + 1 :], self.newest + 1], strict=False
        ):
            if start < end:
                yield start, end

    @property
    def untouched(self) -> int:
        """Where nothing is finished from there on."""
        return (
            max(self._head, self._starts[-1])
            if self.in_flight and self._ends[-1] > self.newest
            else self.newest + 1
        )


def _runs(offsets: list[int]) -> list[tuple[int, int]]:
    """The contiguous runs in *offsets*: start and end.

    One that is not the next, or comes twice, begins a run.
    """
    if not offsets:
        return []
    start, end = offsets[0], offsets[0] + len(offsets)
    if offsets == list(range(start, end)):  # nearly always
        return [(start, end)]
    begins = [
        at for at, (before, offset) in enumerate(pairwise(offsets), 1) if offset != before + 1
    ]
    return [(offsets[a], offsets[b - 1] + 1) for a, b in pairwise([0, *begins, len(offsets)])]


OnCommitAhead = Literal["ignore", "follow", "fail"]


class StartError(ValueError):
    """The state of a partition does not belong to what its topic holds now."""


class Start(NamedTuple):
    """Where reading a partition begins, and what the state and the group's commit disagree about, if anything.

    *gone* is how many offsets before that were deleted from the log unread.
    """

    offset: int
    disagreement: str
    gone: int = 0


def gone(first: int, begin: int) -> str:
    """Say that the offsets from *first* to the log's *begin* were deleted unread."""
    return f"records {first} to {begin - 1} are gone from the topic and were never handled"


def start_offset(  # four offsets and what to do
    processed: int, committed: int | None, begin: int, end: int, on_commit_ahead: OnCommitAhead
) -> Start:
    """Where to go on when the state says that everything below *processed* is settled: there, because it is the truth.

    A commit that is behind was lost, which costs nothing. One that is ahead was made by somebody
    else, who skipped records: by default that is not followed. *begin* and *end* are those of the
    log. Raises StartError when the state is ahead of the log, or when the commit is ahead of the
    state and that is to `fail`.
    """
    if processed > end:
        raise StartError(
            f"the state has processed up to offset {processed}, but the topic ends at {end}: "
            "it was made "
            "anew or lost records"
        )
    if committed is not None and committed > processed:
        if on_commit_ahead == "fail":
            raise StartError(
                f"the committed offset {committed} is ahead of the state, which has "
                "processed up to "
                f"{processed}: somebody else committed"
            )
        follow = on_commit_ahead == "follow"
        if not (follow or processed < begin):
            return Start(processed, f"somebody else committed offset {committed}; not followed")
        if follow:
            disagreement = f"somebody else committed offset {committed}; followed"
            return Start(max(committed, begin), disagreement, max(begin - committed, 0))
    if processed < begin:
        return Start(begin, gone(processed, begin), begin - processed)
    if committed is not None and committed < processed:
        return Start(
            processed, f"the commit of {committed} is behind; the state goes on where it is"
        )
    return Start(processed, "")
