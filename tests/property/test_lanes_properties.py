"""Properties of lanes under any arrival and order of finishing, and planted faults."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from famulus.processing.key_lanes import Lanes
from famulus.processing.offset_tracker import PartitionOffsets

Records = list[tuple[str, int]]  # lane and number, oldest first
arrivals = st.lists(st.sampled_from("abcd"), max_size=20).map(
    lambda lanes: list(zip(lanes, range(20), strict=False))
)


def work_off(
    lanes: Lanes[tuple[str, int]], records: Records, data: st.DataObject
) -> list[tuple[str, str, int]]:
    """Add, start and finish *records* in random pieces and order; return the steps."""
    waiting, in_hand = list(records), list[tuple[str, int]]()
    happened: list[tuple[str, str, int]] = []
    may_start = False
    while waiting or in_hand or may_start:
        possible = [
            *(["add"] if waiting else []),
            *(["finish"] if in_hand else []),
            *(["start"] if may_start else []),
        ]
        choice = data.draw(st.sampled_from(possible)) if len(possible) > 1 else possible[0]
        if choice == "add":
            size = data.draw(st.integers(1, len(waiting)))
            lanes.add(iter(waiting[:size]), size)
            waiting, may_start = waiting[size:], True
        elif choice == "finish":
            lane, number = in_hand.pop(data.draw(st.integers(0, len(in_hand) - 1)))
            lanes.finish(lane)
            happened.append(("finish", lane, number))
            may_start = True
        elif (started := lanes.start()) is not None:
            lane, number = str(started[0]), started[1]
            happened.append(("start", lane, number))
            if data.draw(st.booleans()):
                happened.append(("finish", lane, number))
            else:
                lanes.hold(lane)
                in_hand.append((lane, number))
        else:
            may_start = False
    assert not lanes.waiting, f"stuck with {lanes.waiting} waiting"
    return happened


def check(happened: list[tuple[str, str, int]], records: Records, limit: int) -> None:
    """Check that all is done once, with order kept in each lane and at most *limit* at once."""
    for lane in {lane for lane, _ in records}:
        mine = [(what, number) for what, of, number in happened if of == lane]
        in_order = [number for of, number in records if of == lane]
        assert mine == [(what, number) for number in in_order for what in ("start", "finish")]
    at_work = 0
    for what, _, _ in happened:
        at_work += 1 if what == "start" else -1
        assert at_work <= limit


@given(records=arrivals, limit=st.integers(1, 5), data=st.data())
def test_a_lane_never_overlaps_and_never_reorders(
    records: Records, limit: int, data: st.DataObject
) -> None:
    check(work_off(Lanes(limit), records, data), records, limit)


@given(records=arrivals, data=st.data())
def test_nothing_waits_behind_another_lane(records: Records, data: st.DataObject) -> None:
    """With room for all, the first unfinished record of every lane is running."""
    lanes: Lanes[tuple[str, int]] = Lanes(100)
    lanes.add(iter(records), len(records))
    unfinished = list(records)
    in_hand: Records = []
    while unfinished:
        while (started := lanes.start()) is not None:
            lanes.hold(started[0])
            in_hand.append((str(started[0]), started[1]))
        heads = dict(reversed(unfinished))
        assert dict(in_hand) == heads
        done = in_hand.pop(data.draw(st.integers(0, len(in_hand) - 1)))
        lanes.finish(done[0])
        unfinished.remove(done)


@given(records=arrivals, data=st.data())
def test_clearing_leaves_what_is_in_hand_and_nothing_else(
    records: Records, data: st.DataObject
) -> None:
    """After a revoke no record starts, but records in flight can still finish."""
    lanes: Lanes[tuple[str, int]] = Lanes(10)
    lanes.add(iter(records), len(records))
    in_hand = []
    for _ in range(data.draw(st.integers(0, 10))):
        if (started := lanes.start()) is not None and data.draw(st.booleans()):
            lanes.hold(started[0])
            in_hand.append(started)
    for lane, _ in data.draw(st.lists(st.sampled_from(in_hand), unique=True)) if in_hand else []:
        in_hand.remove((lane, _))
        lanes.finish(lane)
    lanes.clear()
    assert lanes.waiting == 0
    for lane, _ in in_hand:
        assert lanes.start() is None
        lanes.finish(lane)
    assert (lanes.held, lanes.start()) == (0, None)


def test_finishing_what_is_not_in_hand_is_our_bug() -> None:
    """The error shows a bug of the engine at once."""
    with pytest.raises(KeyError):
        Lanes[tuple[str, int]](1).finish("a")


# Tests of the tests: planted faults must fail them.


class TwoAtOnce(Lanes[tuple[str, int]]):
    """Fault: a lane that is held can start again."""

    def hold(self, lane: Any) -> None:
        """Apply the fault."""
        super().hold(lane)
        self._busy[object()] = self._busy.pop(lane)

    def finish(self, lane: Any) -> None:
        """Apply the fault."""
        self.held -= 1


class Stack(Lanes[tuple[str, int]]):
    """Fault: the newest waiting record starts first."""

    def finish(self, lane: Any) -> None:
        """Apply the fault."""
        self._busy[lane].reverse()
        super().finish(lane)


class OffByOne(PartitionOffsets):
    """Fault: the commit is one record too far."""

    def finished(self, offset: int) -> None:
        """Apply the fault."""
        super().finished(offset)
        if self.in_flight and self.next_offset is not None:
            self.next_offset = self._head + 1


class NewestWins(PartitionOffsets):
    """Fault: the commit skips unfinished records, as stock Faust does."""

    def finished(self, offset: int) -> None:
        """Apply the fault."""
        super().finished(offset)
        self.next_offset = max(offset + 1, self.next_offset or 0)


@pytest.mark.parametrize("faulty", [TwoAtOnce, Stack])
def test_planted_faults_of_lanes_are_caught(
    faulty: Callable[[int], Lanes[tuple[str, int]]],
) -> None:
    @settings(database=None, max_examples=500, phases=[Phase.generate])
    @given(records=arrivals, data=st.data())
    def attempt(records: Records, data: st.DataObject) -> None:
        check(work_off(faulty(5), records, data), records, 5)

    with pytest.raises(AssertionError):
        attempt()


@pytest.mark.parametrize("faulty", [OffByOne, NewestWins])
def test_planted_faults_of_offsets_are_caught(faulty: Callable[[], PartitionOffsets]) -> None:
    @settings(database=None, max_examples=500, phases=[Phase.generate])
    @given(order=st.permutations(range(5)))
    def attempt(order: list[int]) -> None:
        offsets = faulty()
        offsets.received(range(5))
        for done, offset in enumerate(order, 1):
            offsets.finished(offset)
            first = min(set(range(5)) - set(order[:done]), default=5)
            assert (offsets.next_offset or 0) <= first

    with pytest.raises(AssertionError):
        attempt()
