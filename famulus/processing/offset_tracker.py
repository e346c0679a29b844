"""The committable offset of a partition: everything below it is finished.

Records may finish in any order: received -> finished -> committable. Pure, and a module of its own,
because a mistake here loses events: stock Faust commits past an unfinished record (faust-streaming
#606). Offsets that were never received (holes left by compaction and by transaction markers) are
crossed, because only received records are waited for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Literal, NamedTuple

# Finished runs are deleted from the front of the lists when there are so many, since each deletion
# moves all other runs.
STALE_RUNS = 1_000


class PartitionOffsets:
    """The offsets of one partition during one assignment.

    *next_offset* may be committed; None before any may. *newest* was received last, -1 before any.
    *in_flight* is the number of records that were received and are not finished. The log may have
    been read beyond the newest record, see `passed`. Offsets in flight are kept as runs: an offset
    that stays unfinished costs one run, however many behind it are finished.
    """

    def __init__(self) -> None:
        self.next_offset: int | None = None
        self.newest = -1
        self.in_flight = 0
        self._passed = 0
        # The unfinished runs, ascending and disjoint: the start of each, its end (exclusive), and
        # one past the offset that was received before it. The latter equals the start unless there
        # is a hole. The first *_first* entries of the lists are finished runs. The run after those
        # starts at *_head*; only its end is up to date in the lists.
        self._head = -1
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._befores: list[int] = []
        self._first = 0

    def received(self, offsets: Iterable[int]) -> None:
        """Note records before they are processed.

        *offsets* are ascending. Raises AssertionError if one is not above all earlier ones (a bug
        of the caller).
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
        """Note that there is no record between the newest one and *position*.

        Returns whether more may be committed now. Transaction markers and holes left by compaction
        are never finished by a record.
        """
        self._passed = position
        if self.in_flight or position <= max(self.newest + 1, self.next_offset or 0):
            return False
        self.next_offset = position
        return True

    def finished(self, offset: int) -> None:
        """Mark the record at *offset* finished.

        *offset* is its own, not one past it. Raises AssertionError if it is not in flight.
        """
        # Nearly always in order.
        if offset == self._head and offset + 1 < self._ends[self._first]:
            self._head = self.next_offset = offset + 1
            self.in_flight -= 1
        else:
            self._finish(offset, offset + 1)

    def finished_all(self, offsets: Iterable[int]) -> None:
        """Mark the records at *offsets* finished, in any order.

        Raises AssertionError if one of them is not in flight.
        """
        for start, end in _runs(sorted(offsets)):
            self._finish(start, end)

    def _finish(self, start: int, end: int) -> None:
        """Mark the run from *start* to *end* (exclusive) finished.

        All of it was received, so it lies within one of the unfinished runs.
        """
        starts, ends, befores, first = self._starts, self._ends, self._befores, self._first
        if self.in_flight:
            starts[first] = self._head
        at = bisect_right(starts, start, first) - 1
        stop = ends[at] if at >= first else start
        assert end <= stop, f"offset {max(start, stop)} is not in flight"
        self.in_flight -= end - start
        if starts[at] < start:  # the run's first records stay unfinished
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
        # Up to what was received: not across the hole before the first unfinished run.
        if at == first:
            self.next_offset = (
                befores[self._first] if self.in_flight else max(self.newest + 1, self._passed)
            )
            self._head = starts[self._first] if self.in_flight else -1
            if self._first >= STALE_RUNS:
                del starts[: self._first], ends[: self._first], befores[: self._first]
                self._first = 0

    def is_finished(self, first: int, last: int) -> bool:
        """Return whether nothing from *first* to *last* is in flight."""
        if not self.in_flight or last < self._head:
            return True
        return self._ends[bisect_right(self._starts, last, self._first) - 1] <= first

    def ahead(self) -> Iterator[tuple[int, int]]:
        """Yield the finished runs above an unfinished record, as pairs of start and end.

        The end is exclusive. Runs may include holes of the log.
        """
        first = self._first
        for start, end in zip(
            self._ends[first:], [*self._befores[first + 1 :], self.newest + 1], strict=False
        ):
            if start < end:
                yield start, end

    @property
    def untouched(self) -> int:
        """Return the offset from which on no record is finished."""
        return (
            max(self._head, self._starts[-1])
            if self.in_flight and self._ends[-1] > self.newest
            else self.newest + 1
        )


def _runs(offsets: list[int]) -> list[tuple[int, int]]:
    """Return the contiguous runs in *offsets*, as pairs of start and end (exclusive).

    An offset that does not follow its predecessor, or equals it, begins a run.
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
    """The state of a partition does not fit the present content of its topic."""


class Start(NamedTuple):
    """The offset where reading of a partition begins.

    *disagreement* says how the state and the group's commit differ; empty if they do not. *gone* is
    the number of offsets before *offset* that were deleted from the log unread.
    """

    offset: int
    disagreement: str
    gone: int = 0


def gone(first: int, begin: int) -> str:
    """Return a message that the offsets from *first* to *begin* were deleted unread.

    *begin* is the first offset of the log.
    """
    return f"records {first} to {begin - 1} are gone from the topic and were never handled"


def start_offset(  # four offsets and what to do
    processed: int, committed: int | None, begin: int, end: int, on_commit_ahead: OnCommitAhead
) -> Start:
    """Return the offset where reading continues: *processed*, if the log still has it.

    Otherwise reading continues at *begin*, the first offset of the log. *end* is one past the last.

    The state says that everything below *processed* is settled, and it takes precedence over the
    group's commit. A commit that is behind is harmless: a later one was lost. A commit that is
    ahead was made by another client, which skipped records; by default it is not followed.

    Raises StartError when the state is ahead of the log, or when the commit is ahead of the state
    and *on_commit_ahead* is `fail`.
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
