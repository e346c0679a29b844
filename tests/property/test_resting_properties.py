"""Properties of lanes with deferred records: none is overtaken, and none is lost.

Records are deferred and resumed at any time and in any order.
"""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from famulus.processing.key_lanes import Lanes

Records = list[tuple[str, int]]  # lane and number, oldest first
arrivals = st.lists(st.sampled_from("abcd"), max_size=20).map(
    lambda lanes: list(zip(lanes, range(20), strict=False))
)


class Work:
    """Lanes, their records and the steps so far; *rests* limits the number of deferrals."""

    def __init__(self, records: Records, limit: int, rests: int) -> None:
        self.lanes: Lanes[tuple[str, int]] = Lanes(limit)
        self.waiting = list(records)
        self.held: Records = []
        self.resting: Records = []
        self.happened: list[tuple[str, str, int]] = []
        self.rests = rests
        self.may_start = False

    def possible(self) -> list[str]:
        """Return the steps that are possible next."""
        found = (
            ["add"] * bool(self.waiting)
            + ["start"] * self.may_start
            + ["resume"] * bool(self.resting)
        )
        return found + (["finish"] + ["rest"] * bool(self.rests) if self.held else [])

    def do(self, what: str, data: st.DataObject) -> None:
        """Do one step."""
        if what == "add":
            size = data.draw(st.integers(1, len(self.waiting)))
            self.lanes.add(iter(self.waiting[:size]), size)
            self.waiting = self.waiting[size:]
        elif what == "start":
            self.start(data)
            return
        elif what == "resume":
            self.lanes.resume(self.pick(self.resting, data))
        else:
            self.end(what, *self.pick(self.held, data), is_held=True)
        self.may_start = True

    def start(self, data: st.DataObject) -> None:
        """Start the next record if there is one: it ends at once, is held or is deferred."""
        started = self.lanes.start()
        if started is None:
            self.may_start = False
            return
        lane, number = str(started[0]), started[1]
        self.happened.append(("start", lane, number))
        what = data.draw(
            st.sampled_from(["finish", "hold", "rest"] if self.rests else ["finish", "hold"])
        )
        if what == "hold":
            self.lanes.hold(lane)
            self.held.append((lane, number))
        else:
            self.end(what, lane, number, is_held=False)

    def end(self, what: str, lane: str, number: int, *, is_held: bool) -> None:
        """Finish or defer a record."""
        self.happened.append((what, lane, number))
        if what == "rest":
            self.rests -= 1
            self.lanes.rest(lane, is_held=is_held)
            self.resting.append((lane, number))
        elif is_held:
            self.lanes.finish(lane)

    @staticmethod
    def pick(of: Records, data: st.DataObject) -> tuple[str, int]:
        """Remove and return one of the records."""
        return of.pop(data.draw(st.integers(0, len(of) - 1)))


@given(records=arrivals, limit=st.integers(1, 5), rests=st.integers(0, 10), data=st.data())
def test_what_rests_is_overtaken_by_nothing_of_its_lane(
    records: Records, limit: int, rests: int, data: st.DataObject
) -> None:
    """A deferred record starts again before those behind it in its lane, and takes no room."""
    work = Work(records, limit, rests)
    while possible := work.possible():
        work.do(data.draw(st.sampled_from(possible)), data)
        assert work.lanes.held == len(work.held) <= limit
        assert work.lanes.resting == len(work.resting)
    assert (work.lanes.waiting, work.lanes.start()) == (0, None)
    for lane in {lane for lane, _ in records}:
        mine = [(what, number) for what, of, number in work.happened if of == lane]
        numbers: list[Any] = []
        for (what, number), (then, after) in zip(mine[::2], mine[1::2], strict=True):
            assert (what, number) == ("start", after)
            if then == "finish":
                numbers.append(number)
        assert numbers == [number for of, number in records if of == lane]


@given(records=arrivals, data=st.data())
def test_what_rests_takes_no_room(records: Records, data: st.DataObject) -> None:
    """With room for one, the first record of every lane may be deferred, and no other starts."""
    work = Work(records, 1, len(records))
    work.lanes.add(iter(records), len(records))
    while (started := work.lanes.start()) is not None:
        is_held = data.draw(st.booleans())
        if is_held:
            work.lanes.hold(started[0])
        work.end("rest", str(started[0]), started[1], is_held=is_held)
    assert dict(work.resting) == dict(reversed(records))
    assert len(work.resting) == work.lanes.resting
    work.lanes.clear()
    assert (work.lanes.waiting, work.lanes.resting, work.lanes.start()) == (0, 0, None)
