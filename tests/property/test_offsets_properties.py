"""Properties of offsets: only the longest finished prefix may be committed, in any order."""

from itertools import pairwise
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.processing import offset_tracker as module
from famulus.processing.offset_tracker import PartitionOffsets

# Ascending offsets with holes, as compaction and transaction markers leave them.
logs = st.lists(st.integers(1, 5), min_size=1, max_size=60).map(
    lambda steps: [sum(steps[: i + 1]) for i in range(len(steps))]
)
chances = st.randoms(use_true_random=False)


def check(offsets: PartitionOffsets, received: list[int], finished: set[int]) -> None:
    """Check everything that *offsets* reports against the sets of offsets."""
    unfinished = [offset for offset in received if offset not in finished]
    head = unfinished[0] if unfinished else received[-1] + 1
    prefix = [offset for offset in received if offset < head]
    assert offsets.next_offset == (prefix[-1] + 1 if prefix else None)
    assert offsets.newest == received[-1]
    assert offsets.in_flight == len(unfinished)
    runs = list(offsets.ahead())
    ahead = {offset for start, end in runs for offset in range(start, end)}
    assert ahead & set(received) == {offset for offset in finished if offset > head}
    assert all(head < start < end <= received[-1] + 1 for start, end in runs)
    assert all(before < start for (_, before), (start, _) in pairwise(runs))
    assert all(finished & set(range(*run)) for run in runs)  # no run has holes alone
    assert not any(offset >= offsets.untouched for offset in finished)


@given(log=logs, data=st.data())
def test_committable_is_the_longest_finished_prefix(log: list[int], data: st.DataObject) -> None:
    """The check runs after each single finish."""
    offsets = PartitionOffsets()
    offsets.received(log)
    finished = set[int]()
    for offset in data.draw(st.permutations(log)):
        offsets.finished(offset)
        finished.add(offset)
        check(offsets, log, finished)


@given(log=logs, chance=chances)
def test_many_that_finish_together_are_as_many_that_finish_one_after_the_other(
    log: list[int], chance: Random
) -> None:
    """Groups are random, and some records finish one by one."""
    together, alone = PartitionOffsets(), PartitionOffsets()
    together.received(log)
    alone.received(log)
    waiting = chance.sample(log, len(log))
    while waiting:
        count = chance.randint(1, len(waiting))
        group, waiting = waiting[:count], waiting[count:]
        if len(group) == 1 and chance.random() < 0.5:
            together.finished(group[0])
        else:
            together.finished_all(group)
        for offset in group:
            alone.finished(offset)
        assert (together.next_offset, together.in_flight) == (alone.next_offset, alone.in_flight)
        assert list(together.ahead()) == list(alone.ahead())


@given(log=logs, data=st.data())
def test_what_is_not_in_flight_cannot_finish(log: list[int], data: st.DataObject) -> None:
    """The offset was never received, or is already finished.

    The call has this offset alone or with others.
    """
    offsets = PartitionOffsets()
    offsets.received(log)
    finished = data.draw(st.sets(st.sampled_from(log), min_size=1))
    offsets.finished_all(finished)
    holes = set(range(log[0], log[-1])) - set(log)
    stranger = data.draw(st.sampled_from([*finished, *holes, log[0] - 1, log[-1] + 1]))
    others = [offset for offset in log if offset not in finished]
    if data.draw(st.booleans()):
        with pytest.raises(AssertionError, match=f"offset {stranger} is not in flight"):
            offsets.finished(stranger)
    else:
        with pytest.raises(AssertionError, match=f"offset {stranger} is not in flight"):
            offsets.finished_all([*others, stranger])


@given(log=logs, data=st.data())
def test_nothing_finishes_twice_in_one_call(log: list[int], data: st.DataObject) -> None:
    offsets = PartitionOffsets()
    offsets.received(log)
    twice = data.draw(st.sampled_from(log))
    with pytest.raises(AssertionError, match=f"offset {twice} is not in flight"):
        offsets.finished_all([*log, twice])


@given(log=logs, data=st.data())
def test_nothing_is_received_twice_or_backwards(log: list[int], data: st.DataObject) -> None:
    """The offset comes twice in one call or in two."""
    offsets = PartitionOffsets()
    offsets.received(log[: data.draw(st.integers(0, len(log)))])
    back = data.draw(st.sampled_from(log))
    with pytest.raises(AssertionError, match=f"offset {back} was received after {log[-1]}"):
        offsets.received([*(offset for offset in log if offset > offsets.newest), back])


@given(log=logs, chance=chances, stale=st.sampled_from([1, 3, module.STALE_RUNS]))
def test_records_may_arrive_while_others_finish(log: list[int], chance: Random, stale: int) -> None:
    """Records are received in pieces between finishes, one by one or many together."""
    offsets = PartitionOffsets()
    waiting, finished, received = list(log), set[int](), list[int]()
    in_hand: list[int] = []
    with patch.object(module, "STALE_RUNS", stale):
        while waiting or in_hand:
            if waiting and (not in_hand or chance.random() < 0.4):
                count = chance.randint(1, len(waiting))
                offsets.received(waiting[:count])
                received += waiting[:count]
                in_hand += waiting[:count]
                waiting = waiting[count:]
            else:
                first = chance.randrange(len(in_hand)) if chance.random() < 0.5 else 0
                group = in_hand[first : first + chance.randint(1, 5)]
                del in_hand[first : first + len(group)]
                if len(group) == 1:
                    offsets.finished(group[0])
                else:
                    offsets.finished_all(chance.sample(group, len(group)))
                finished.update(group)
            check(offsets, received, finished)
            first, last = sorted(chance.choices(received, k=2))
            assert offsets.is_finished(first, last) == (
                not any(first <= offset <= last for offset in in_hand)
            )


@given(log=logs, chance=chances)
def test_what_is_no_record_is_passed_when_all_before_it_is_finished(
    log: list[int], chance: Random
) -> None:
    """The position never passes unfinished records and never goes back."""
    offsets, plain = PartitionOffsets(), PartitionOffsets()
    waiting, in_hand, position = list(log), list[int](), 0
    before = 0  # the offset that could be committed before
    while waiting or in_hand:
        chosen = chance.random()
        if waiting and (chosen > 0.7 or not in_hand):
            count = chance.randint(1, len(waiting))
            for of in (offsets, plain):
                of.received(waiting[:count])
            in_hand += waiting[:count]
            waiting = waiting[count:]
        if chosen > 0.4:
            most = waiting[0] if waiting else log[-1] + 5
            position = chance.randint(max(position, offsets.newest + 1), most)
            had = offsets.next_offset or 0
            assert offsets.passed(position) == (not in_hand and position > had)
        elif in_hand:
            offset = in_hand.pop(chance.randrange(len(in_hand)))
            for of in (offsets, plain):
                of.finished(offset)
        expected, now = plain.next_offset or 0, offsets.next_offset or 0
        assert max(expected, before) <= now <= min(in_hand, default=max(expected, position))
        assert in_hand or now == max(expected, position)
        before = now
        assert (offsets.in_flight, list(offsets.ahead())) == (plain.in_flight, list(plain.ahead()))


@given(chance=chances)
def test_runs_are_few_where_records_wait_and_the_lists_do_not_grow(chance: Random) -> None:
    """Each waiting offset makes one run; runs before the first are deleted from time to time."""
    offsets = PartitionOffsets()
    log = list(range(0, 10_000, 2))  # each behind a hole, as one-record transactions leave them
    waits = sorted(chance.sample(log, 5))
    for at in range(0, len(log), 100):
        offsets.received(log[at : at + 100])
        offsets.finished_all(set(log[at : at + 100]) - set(waits))
    assert (offsets.in_flight, offsets.next_offset) == (5, waits[0] - 1 if waits[0] else None)
    assert (
        len(offsets._starts) == len(offsets._ends) == len(offsets._befores) <= module.STALE_RUNS + 5
    )
    assert len(list(offsets.ahead())) <= 5
    offsets.finished_all(waits)
    assert (offsets.in_flight, offsets.next_offset) == (0, log[-1] + 1)
