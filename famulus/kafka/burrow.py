"""State of a consumer group on a partition, judged from a window of samples. Pure.

The states and their rules are those of Burrow, LinkedIn's lag monitor: no threshold of lag, but the
movement of committed offsets and lag
(https://github.com/linkedin/Burrow/wiki/Consumer-Lag-Evaluation-Rules, and
`core/internal/evaluator/caching.go` there):

    1. no lag now: ok;
    2. *stopped*: the time since the last commit is longer than the time between the first and
       the last commit of the window, and the last commit is below every end of the log in it;
    3. no lag at some commit in the window: ok;
    4. *rewind*: a commit went back, and the earlier position has not been reached again;
    5. *stalled*: every commit in the window has the same offset;
    6. *warning*: the lag never became less from one commit to the next;
    7. else the group catches up: ok.

Three rules differ. Burrow reads the commits themselves; this module sees offsets that move. A
sample counts as a commit when the offset moved, and also while the group has members, which would
commit if they made progress: unmoved offsets are stalled then, and stopped is for a group without
members. A window shorter than `JUDGED_S` gives no state where the rules need a time without
progress: the members may just not have committed yet. A group that has read everything before an
open transaction cannot make progress by itself: that is a warning, not stalled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

LOOKS = 10  # samples of a window; Burrow keeps as many commits
JUDGED_S = 10.0  # twice the default commit interval of Kafka's own clients


class State(StrEnum):
    """State of a group on a partition."""

    OK = "ok"
    WARNING = "warning"
    REWIND = "rewind"
    STALLED = "stalled"
    STOPPED = "stopped"

    @property
    def is_error(self) -> bool:
        """Return True for a state without progress, Burrow's status ERR."""
        return self in (State.REWIND, State.STALLED, State.STOPPED)


@dataclass(frozen=True, slots=True)
class LagSample:
    """A sample of a partition, with its log from *begin* to *end*.

    *at_s* is its time in seconds, of any clock. *committed* is the next offset of the group, None
    without a commit: then it reads from the beginning. *is_held* means that the group has members.
    *is_held_up* means that all unread records are behind an open transaction of another client.
    """

    at_s: float
    begin: int
    end: int
    committed: int | None
    is_held: bool = False
    is_held_up: bool = False

    @property
    def position(self) -> int:
        """Return the offset of the next record that the group can read, the end without one."""
        return min(
            max(self.begin if self.committed is None else self.committed, self.begin), self.end
        )

    @property
    def lag(self) -> int:
        """Return the number of records that the group has still to read."""
        return self.end - self.position

    @property
    def deleted(self) -> int:
        """Return the number of records that were deleted before the group read them."""
        return 0 if self.committed is None else max(self.begin - self.committed, 0)

    @property
    def ahead(self) -> int:
        """Return by how many offsets the commit is above the end of the log, else 0.

        A topic that was deleted and created again has such a commit.
        """
        return 0 if self.committed is None else max(self.committed - self.end, 0)

    @property
    def mark(self) -> int:
        """Return the committed offset, -1 without one, to compare samples by."""
        return -1 if self.committed is None else self.committed


@dataclass(frozen=True, slots=True)
class Rates:
    """Records per second that arrived and were consumed."""

    arrived: float
    consumed: float


def kept(window: Sequence[LagSample], look: LagSample) -> list[LagSample]:
    """Append a sample to the window, and drop the oldest ones that are not needed.

    A window needs `LOOKS` samples, and those of the last `JUDGED_S` seconds.
    """
    looks = [*window, look]
    while len(looks) > LOOKS and look.at_s - looks[1].at_s >= JUDGED_S:
        del looks[0]
    return looks


def state_of(window: Sequence[LagSample]) -> State | None:
    """Return the state by a window of samples, at least one; None if too short."""
    now, commits = window[-1], _commits(window)
    if now.lag == 0:
        return State.OK
    if _is_stopped(window, commits):
        return State.STOPPED
    if any(look.lag == 0 for look in commits):
        return State.OK
    if commits[-1].mark < max(look.mark for look in commits):
        return State.REWIND
    return _of_progress(commits, now.at_s - window[0].at_s)


def rates_of(window: Sequence[LagSample]) -> Rates | None:
    """Return the rates over the window; None for a window of one sample.

    A log or a group that went back counts as unmoved.
    """
    first, last = window[0], window[-1]
    seconds = last.at_s - first.at_s
    if seconds <= 0:
        return None
    return Rates(
        max(last.end - first.end, 0) / seconds, max(last.position - first.position, 0) / seconds
    )


def eta_s_of(lag: int, rates: Rates | None) -> float | None:
    """Return the seconds until the lag is zero at these *rates*, None for never or unknown."""
    if lag == 0:
        return 0.0
    if rates is None or rates.consumed <= rates.arrived:
        return None
    return lag / (rates.consumed - rates.arrived)


def worst(states: Iterable[State | None]) -> State | None:
    """Return the worst of the states of partitions; ok for none."""
    order = [State.OK, None, State.WARNING, State.REWIND, State.STALLED, State.STOPPED]
    return max(states, key=order.index, default=State.OK)


def _commits(window: Sequence[LagSample]) -> list[LagSample]:
    """Return the samples that count as commits.

    The first one does: a commit was made at some time before.
    """
    moved = [
        after for before, after in pairwise(window) if after.is_held or after.mark != before.mark
    ]
    return [window[0], *moved]


def _of_progress(commits: Sequence[LagSample], seen_s: float) -> State | None:
    """Return the state of a group that always had lag and has not been rewound."""
    if any(after.lag < before.lag for before, after in pairwise(commits)):
        return State.OK
    if seen_s < JUDGED_S:
        return None
    is_stalled = len({look.mark for look in commits}) == 1 and not commits[-1].is_held_up
    return State.STALLED if is_stalled else State.WARNING


def _is_stopped(window: Sequence[LagSample], commits: Sequence[LagSample]) -> bool:
    first, last = commits[0], commits[-1]
    reached = last.begin if last.committed is None else last.committed
    has_caught_up = any(look.end <= reached for look in window)
    return window[-1].at_s - last.at_s > last.at_s - first.at_s and not has_caught_up
