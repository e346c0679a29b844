"""Tests of offset tracking: the cases in which stock Faust loses events (faust-streaming #606)."""

import pytest

from famulus.processing.offset_tracker import PartitionOffsets


@pytest.mark.parametrize(
    ("received", "finished", "next_offset"),
    [
        ([10, 11, 12], [11, 12], None),  # stock Faust commits 13 and loses 10
        ([0, 1, 2, 3, 4, 5], [3, 4, 5], None),  # stock Faust commits 6 for a new group
        ([0, 1], [1], None),
        ([10, 16], [10], 11),
        ([10, 16], [10, 16], 17),
        ([10, 15, 16], [10, 16], 11),
    ],
)
def test_an_unfinished_head_is_never_passed(
    received: list[int], finished: list[int], next_offset: int | None
) -> None:
    """Finished records wait behind an unfinished one, and a gap in the log is no record."""
    offsets = PartitionOffsets()
    offsets.received(received)
    for offset in finished:
        offsets.finished(offset)
    assert offsets.next_offset == next_offset


def test_finishing_what_is_not_in_flight_is_our_bug() -> None:
    """An assertion fails, so that no wrong offset is committed."""
    offsets = PartitionOffsets()
    with pytest.raises(AssertionError, match="not in flight"):
        offsets.finished(3)
    offsets.received([3])
    offsets.finished(3)
    with pytest.raises(AssertionError, match="not in flight"):
        offsets.finished(3)


def test_receiving_backwards_is_our_bug() -> None:
    offsets = PartitionOffsets()
    offsets.received([5])
    with pytest.raises(AssertionError, match="received after"):
        offsets.received([5])
