"""Tests of lag states: Burrow's rules, lag of truncated logs, rates and the time left."""

from collections.abc import Sequence

import pytest

from famulus.kafka.burrow import (
    JUDGED_S,
    LOOKS,
    LagSample,
    Rates,
    State,
    eta_s_of,
    kept,
    rates_of,
    state_of,
    worst,
)

MIN = 60.0


def window(
    committed: Sequence[int | None],
    ends: Sequence[int],
    *,
    is_held: bool = True,
    every_s: float = MIN,
) -> list[LagSample]:
    """Return samples of a log that begins at 0."""
    return [
        LagSample(number * every_s, 0, end, at, is_held=is_held)
        for number, (at, end) in enumerate(zip(committed, ends, strict=True))
    ]


@pytest.mark.parametrize(
    ("looks", "state"),
    [
        (window([5, 5, 5], [5, 5, 5]), State.OK),  # nothing to do
        (window([0, 0, 0], [0, 0, 0]), State.OK),  # empty
        (window([None, None], [0, 0]), State.OK),
        (window([1, 5, 5, 6], [5, 5, 9, 20]), State.OK),  # rule 3: the lag was zero once
        (window([1, 3, 5, 7], [10, 11, 12, 13]), State.OK),  # the lag shrinks
        (window([1, 2, 3, 4], [10, 12, 11, 16]), State.OK),  # the lag shrank once
        (window([1, 2, 3, 4], [10, 12, 14, 16]), State.WARNING),
        (window([1, 2, 3, 4], [10, 11, 12, 13]), State.WARNING),  # fixed lag
        (window([1, 1, 2, 2], [10, 11, 12, 13]), State.WARNING),  # slow, but not stalled
        (window([3, 3, 3], [10, 10, 10]), State.STALLED),  # fixed lag
        (window([3, 3, 3], [10, 11, 12]), State.STALLED),
        (window([None, None, None], [10, 10, 10]), State.STALLED),  # members that never committed
        (window([5, 6, 2, 3], [10, 11, 12, 13]), State.REWIND),
        (window([5, 6, None], [10, 11, 12]), State.REWIND),  # its offsets were deleted
        (window([5, 6, 2, 7], [10, 11, 12, 19]), State.WARNING),  # the offset was reached again
        (window([3, 3], [10, 10], is_held=False), State.STOPPED),
        (window([None, None], [10, 10], is_held=False), State.STOPPED),
        (window([3, 4, 4, 4], [10, 10, 11, 12], is_held=False), State.STOPPED),
        # Not silent for long enough.
        (window([3, 4, 5, 5], [10, 10, 10, 10], is_held=False), State.OK),
        # The lag was zero once in the window.
        (window([5, 5, 5], [5, 5, 9], is_held=False), State.OK),
        # STOPPED is worse than REWIND.
        (window([7, 2, 2, 2], [9, 9, 9, 9], is_held=False), State.STOPPED),
    ],
)
def test_each_state_is_told(looks: list[LagSample], state: State) -> None:
    """The module `burrow` names the rules."""
    assert state_of(looks) is state


def test_a_short_window_does_not_call_members_lazy() -> None:
    """Members may not have committed yet.

    A group without members, and a commit that went back, are known at once.
    """
    short_s = JUDGED_S / 4
    assert state_of(window([3], [10])) is None
    assert state_of(window([3, 3], [10, 10], every_s=short_s)) is None
    assert state_of(window([3, 4], [10, 12], every_s=short_s)) is None
    assert state_of(window([3, 3], [10, 10], every_s=short_s, is_held=False)) is State.STOPPED
    assert state_of(window([3, 1], [10, 10], every_s=short_s)) is State.REWIND
    assert state_of(window([3, 6], [10, 10], every_s=short_s)) is State.OK
    assert state_of(window([3, 3], [10, 10], every_s=JUDGED_S)) is State.STALLED


@pytest.mark.parametrize(
    ("begin", "end", "committed", "lag", "deleted", "ahead"),
    [
        (0, 0, None, 0, 0, 0),
        (7, 7, None, 0, 0, 0),
        (5, 20, None, 15, 0, 0),  # no commit: from the beginning
        (5, 20, 8, 12, 0, 0),
        (5, 20, 20, 0, 0, 0),
        (5, 20, 2, 15, 3, 0),  # truncated: the lag counts what can still be read
        (5, 20, 26, 0, 0, 6),  # above the end
        (9, 9, 4, 0, 5, 0),  # all gone
    ],
)
def test_lag_is_what_can_still_be_read(  # noqa: PLR0917  # the parameters
    begin: int, end: int, committed: int | None, lag: int, deleted: int, ahead: int
) -> None:
    """Records that were deleted, or are beyond the end, are counted apart."""
    look = LagSample(0.0, begin, end, committed)
    assert (look.lag, look.deleted, look.ahead) == (lag, deleted, ahead)


def test_rates_and_what_is_left() -> None:
    """The time left is None if records arrive as fast as they are read."""
    rates = rates_of(window([0, 10, 40], [100, 110, 120], every_s=5.0))
    assert rates == Rates(2.0, 4.0)
    assert eta_s_of(80, rates) == 40.0
    assert eta_s_of(0, None) == 0.0
    assert eta_s_of(80, None) is None
    assert eta_s_of(80, Rates(4.0, 4.0)) is None
    assert rates_of(window([3], [10])) is None
    assert rates_of(window([8, 3], [10, 4], every_s=1.0)) == Rates(0.0, 0.0)  # both went back


def test_a_window_keeps_ten_looks_and_ten_seconds() -> None:
    """Frequent samples are kept for JUDGED_S, rare ones up to the ten that Burrow keeps."""
    quick: list[LagSample] = []
    slow: list[LagSample] = []
    for number in range(200):
        quick = kept(quick, LagSample(number * 0.25, 0, 9, 1))
        slow = kept(slow, LagSample(number * MIN, 0, 9, 1))
    assert len(quick) == JUDGED_S / 0.25 + 1
    assert len(slow) == LOOKS


def test_a_group_is_as_well_as_its_worst_partition() -> None:
    """A state that is unknown counts as worse than OK."""
    assert worst([]) is State.OK
    assert worst([State.OK, None]) is None
    assert worst([None, State.WARNING]) is State.WARNING
    assert worst([State.STALLED, State.STOPPED, State.REWIND]) is State.STOPPED
