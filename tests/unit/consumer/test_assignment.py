"""Tests of assigned partitions: logs that lost records before they were read."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from faust.types import TP
from structlog.testing import capture_logs

from famulus.consumer.assignment import AssignedPartitions
from famulus.processing.partition_processor import Limits
from famulus.state.manager import OwnedPartition
from famulus.state.partition_state import PartitionState
from tests.support.in_memory.house import Carrier

PLACE, BACK = TP("t", 0), TP("t.g.retry-1", 0)


class Packed:
    """A fetch without records."""

    leader_epoch = -1

    def __init__(self, first_offset: int, next_offset: int) -> None:
        self.first_offset, self.next_offset = first_offset, next_offset

    @staticmethod
    def records(_: int) -> Iterator[Any]:
        """Yield nothing."""
        return iter(())


@pytest.fixture
async def assigned() -> AssignedPartitions:
    """Return assigned partitions: a source read from offset 10, a retry topic from offset 5."""

    async def nothing(_: object) -> None:
        """Do nothing, in place of every callback."""

    made = AssignedPartitions(
        Limits(1, 100, 10_000, 100),
        1,
        {},
        may_write=lambda: True,
        publish=nothing,
        on_fault=nothing,
        probe=lambda _: None,
    )
    pipeline: Any = Carrier(nothing)
    pipeline.redelivery_topics = (BACK.topic,)
    made.open(
        {PLACE: (pipeline, OwnedPartition(PartitionState(0, None, 1000), None), 10)}, {BACK: 5}
    )
    await asyncio.sleep(0)
    return made


def gone(assigned: AssignedPartitions) -> int:
    """Return the number of offsets that are counted as deleted."""
    return assigned.processors[PLACE].pipeline.counts.gone


async def test_records_that_were_deleted_unread_are_told_and_counted(
    assigned: AssignedPartitions,
) -> None:
    """The gap is noticed when the next fetch begins behind it, or when nothing is left to fetch.

    Each gap counts once.
    """
    fetches: list[Any] = [Packed(10, 20), Packed(20, 30), Packed(45, 50)]
    with capture_logs() as said:
        for fetch in fetches:
            assigned.receive(PLACE, fetch)
        assert gone(assigned) == 15
        assigned.moved(PLACE, 50)
        assigned.moved(PLACE, 60)
        assigned.moved(PLACE, 60)
        back: Any = Packed(7, 8)
        assigned.receive(BACK, back)
    assert gone(assigned) == 15 + 10 + 2
    assert [(line["topic"], line["event"]) for line in said] == [
        ("t", "records 30 to 44 are gone from the topic and were never handled"),
        ("t", "records 50 to 59 are gone from the topic and were never handled"),
        ("t.g.retry-1", "records 5 to 6 are gone from the topic and were never handled"),
    ]
    assert not assigned.processors[PLACE].refill()
    assert assigned.processors[PLACE].behind(60) == 0


async def test_reading_on_elsewhere_loses_nothing(assigned: AssignedPartitions) -> None:
    """An operator's seek moves the position.

    A partition that is not assigned counts nothing either.
    """
    assigned.forget(PLACE)
    fetch: Any = Packed(70, 80)
    assigned.receive(PLACE, fetch)
    assigned.moved(TP("other", 0), 10)
    assert gone(assigned) == 0
    assigned.open({})
    assigned.moved(PLACE, 100)
