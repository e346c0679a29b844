"""The offset arithmetic under any order of finishing: only the longest finished prefix may ever be committed."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.offsets import PartitionOffsets

# Ascending offsets with holes, as compaction and transaction markers leave them.
logs = st.lists(st.integers(1, 5), min_size=1, max_size=60).map(
    lambda steps: [sum(steps[: i + 1]) for i in range(len(steps))]
)


@given(log=logs, data=st.data())
def test_committable_is_the_longest_finished_prefix(log: list[int], data: st.DataObject) -> None:
    """After every single finish, whatever the order, `next_offset` is the end of the longest finished prefix."""
    offsets = PartitionOffsets()
    offsets.received(log)
    unfinished = set(log)
    for offset in data.draw(st.permutations(log)):
        offsets.finished(offset)
        unfinished.discard(offset)
        prefix = [o for o in log if not any(u <= o for u in unfinished)]
        assert offsets.next_offset == (prefix[-1] + 1 if prefix else None)
        assert offsets.in_flight == len(log) - len(prefix)


@given(log=logs, chance=st.randoms(use_true_random=False))
def test_many_that_finish_together_are_as_many_that_finish_one_after_the_other(log: list[int], chance: Random) -> None:
    """Whatever the groups and their order, also when some finish one by one in between."""
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
        assert together.ahead == alone.ahead


@given(log=logs, data=st.data())
def test_what_is_not_in_flight_cannot_finish_with_others(log: list[int], data: st.DataObject) -> None:
    """It was never received, or is below what may be committed."""
    offsets = PartitionOffsets()
    offsets.received(log)
    offsets.finished(log[0])
    stranger = data.draw(st.sampled_from([log[0], log[-1] + 1]))
    with pytest.raises(AssertionError, match="not in flight"):
        offsets.finished_all([*log[1:], stranger])


@given(log=logs, data=st.data())
def test_records_may_arrive_while_others_finish(log: list[int], data: st.DataObject) -> None:
    """Receiving in pieces between finishes changes nothing."""
    offsets = PartitionOffsets()
    waiting, finished = list(log), set()
    in_hand: list[int] = []
    while waiting or in_hand:
        if waiting and (not in_hand or data.draw(st.booleans())):
            count = data.draw(st.integers(1, len(waiting)))
            offsets.received(waiting[:count])
            in_hand += waiting[:count]
            waiting = waiting[count:]
        else:
            offset = in_hand.pop(data.draw(st.integers(0, len(in_hand) - 1)))
            offsets.finished(offset)
            finished.add(offset)
        head = next((o for o in log if o not in finished), log[-1] + 1)
        assert offsets.next_offset is None or offsets.next_offset <= head
    assert offsets.next_offset == log[-1] + 1
