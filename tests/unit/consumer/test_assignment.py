"""What the intake notes of logs that lost records under their reader."""

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
    """A fetch of no records."""

    leader_epoch = -1

    def __init__(self, first_offset: int, next_offset: int) -> None:
        self.first_offset, self.next_offset = first_offset, next_offset

    @staticmethod
    def records(_: int) -> Iterator[Any]:
        """Nothing."""
        return iter(())


@pytest.fixture
async def assigned() -> AssignedPartitions:
    """One with a partition that is read from 10 on, and one through which records come back, from 5 on."""

    async def nothing(_: object) -> None:
        """Stand for whatever is waited for."""

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
    """How many offsets are counted as deleted."""
    return assigned.processors[PLACE].pipeline.counts.gone


async def test_records_that_were_deleted_unread_are_told_and_counted(
    assigned: AssignedPartitions,
) -> None:
    """When the next fetch begins behind them, or when nothing is left to fetch; each once."""
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
    """As when an operator says so; nor does a partition of somebody else."""
    assigned.forget(PLACE)
    fetch: Any = Packed(70, 80)
    assigned.receive(PLACE, fetch)
    assigned.moved(TP("other", 0), 10)
    assert gone(assigned) == 0
    assigned.open({})
    assigned.moved(PLACE, 100)
