"""How a consumer group gets on with a partition, from a window of looks at it. Pure.

The states and their rules are those of Burrow, LinkedIn's lag monitor: no threshold of lag that
somebody has to choose, but what the committed offsets and the lag did meanwhile
(https://github.com/linkedin/Burrow/wiki/Consumer-Lag-Evaluation-Rules, and
`core/internal/evaluator/caching.go` there):

1. without lag now, all is ok;
2. *stopped*: the last commit is longer ago than the window's commits lie apart, and the group had not caught up with
   any end of the log in the window;
3. without lag at any commit in the window, all is ok;
4. *rewind*: a commit went back, and what was committed before has not been reached again;
5. *stalled*: every commit in the window says the same offset;
6. *warning*: the lag never became less from one commit to the next;
7. else the group catches up: ok.

Three things differ. Burrow reads the commits themselves; from outside one sees offsets that move.
So a look counts as a commit when the offset moved, and also while the group has members, who would
commit if they got on: what does not move there is stalled, and stopped is where nobody is left. And
a window that is shorter than `JUDGED_S` says nothing where these rules speak of a time without
progress: the members may just not have committed yet. And a group that has read all before a
transaction that is open cannot get on, and nobody in it can help: that is a warning, not stalled.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

LOOKS = 10  # of a window, as Burrow keeps so many commits
JUDGED_S = 10.0  # twice the interval of commits that Kafka's own clients have


class State(StrEnum):
    """How it gets on."""

    OK = "ok"
    WARNING = "warning"
    REWIND = "rewind"
    STALLED = "stalled"
    STOPPED = "stopped"

    @property
    def is_error(self) -> bool:
        """Whether it does not get on at all: Burrow's status ERR."""
        return self in (State.REWIND, State.STALLED, State.STOPPED)


@dataclass(frozen=True, slots=True)
class LagSample:
    """A partition as it was *at_s* (seconds, of any clock): its log from *begin* up to *end*.

    *committed* is the offset that the group reads next, None without a commit: then it reads from
    the beginning. *is_held* says that the group has members, *is_held_up* that all which it has not
    read stands behind a transaction of somebody else that is open.
    """

    at_s: float
    begin: int
    end: int
    committed: int | None
    is_held: bool = False
    is_held_up: bool = False

    @property
    def position(self) -> int:
        """The offset of the next record that the group can get; the end when there is none."""
        return min(
            max(self.begin if self.committed is None else self.committed, self.begin), self.end
        )

    @property
    def lag(self) -> int:
        """Records that are still to be read."""
        return self.end - self.position

    @property
    def deleted(self) -> int:
        """Records that the log has lost before the group read them: it had committed below the beginning."""
        return 0 if self.committed is None else max(self.begin - self.committed, 0)

    @property
    def ahead(self) -> int:
        """How far the commit is above the end, as when the topic was made anew."""
        return 0 if self.committed is None else max(self.committed - self.end, 0)

    @property
    def mark(self) -> int:
        """The committed offset, -1 without one, to be compared with another look's."""
        return -1 if self.committed is None else self.committed


@dataclass(frozen=True, slots=True)
class Rates:
    """What came and what was read, records per second."""

    arrived: float
    consumed: float


def kept(window: Sequence[LagSample], look: LagSample) -> list[LagSample]:
    """The window with one look more, without those at its beginning that nobody needs any more."""
    looks = [*window, look]
    while len(looks) > LOOKS and look.at_s - looks[1].at_s >= JUDGED_S:
        del looks[0]
    return looks


def state_of(window: Sequence[LagSample]) -> State | None:
    """The state by the window, which has a look; None: the window is too short to say."""
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
    """The rates over the window; None when it has but one look.

    A log or a group that went back counts as still.
    """
    first, last = window[0], window[-1]
    seconds = last.at_s - first.at_s
    if seconds <= 0:
        return None
    return Rates(
        max(last.end - first.end, 0) / seconds, max(last.position - first.position, 0) / seconds
    )


def eta_s_of(lag: int, rates: Rates | None) -> float | None:
    """In how many seconds nothing is left, if both rates stay; None: never, or nobody knows."""
    if lag == 0:
        return 0.0
    if rates is None or rates.consumed <= rates.arrived:
        return None
    return lag / (rates.consumed - rates.arrived)


def worst(states: Iterable[State | None]) -> State | None:
    """The state of a group by its partitions' states; ok when it has none."""
    order = [State.OK, None, State.WARNING, State.REWIND, State.STALLED, State.STOPPED]
    return max(states, key=order.index, default=State.OK)


def _commits(window: Sequence[LagSample]) -> list[LagSample]:
    """The looks that count as commits.

    The first does: something was committed there at some time.
    """
    moved = [
        after for before, after in pairwise(window) if after.is_held or after.mark != before.mark
    ]
    return [window[0], *moved]


def _of_progress(commits: Sequence[LagSample], seen_s: float) -> State | None:
    """The state where there was always lag, and no commit that is still taken back."""
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
