"""Cases in which stock Faust commits past an unfinished record (faust-streaming #606).

Each case also has the commit of this engine. Faust's answers are those of its own class. A case
fails if a new version of Faust has repaired it.
"""

import asyncio
from itertools import pairwise
from typing import Any, NamedTuple

import faust
import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from famulus.processing.offset_tracker import PartitionOffsets

PLACE = TP("events", 0)


class Row(NamedTuple):
    """A state of a partition.

    *committed* is the next offset to read. The records of *finished* were *received* before.
    """

    committed: int | None
    received: range | list[int]
    finished: range | list[int]
    ours: int | None
    stock: int | None


async def faust_commits(row: Row) -> int | None:
    """Return the offset that the consumer of stock Faust would commit."""

    async def nothing(*_: object) -> None:
        """Do nothing, in place of the app's callbacks."""

    app = faust.App("stock", broker="kafka://nowhere")
    consumer: Any = driver.Consumer(  # Any: private parts
        driver.Transport([], app),
        callback=nothing,
        on_partitions_revoked=nothing,
        on_partitions_assigned=nothing,
        loop=asyncio.get_running_loop(),
    )
    consumer._committed_offset[PLACE] = row.committed or None  # `perform_seek` does so
    for before, offset in pairwise(row.received):
        if offset - before > 1 and before:
            await consumer._add_gap(PLACE, before + 1, offset)  # `_drain_messages` does so
    consumer._acked[PLACE] = list(row.finished)
    committable: int | None = consumer._new_offset(PLACE)
    return committable


def we_commit(row: Row) -> int | None:
    """Return the offset that this engine would commit."""
    offsets = PartitionOffsets()
    offsets.received(row.received)
    for offset in row.finished:
        offsets.finished(offset)
    return offsets.next_offset


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(Row(10, [10, 11, 12], [11, 12], None, 13), id="the head is at work"),
        pytest.param(
            Row(2585, range(2585, 2590), range(2586, 2590), None, 2590), id="the head of a long log"
        ),
        pytest.param(Row(None, range(6), [3, 4, 5], None, 6), id="a new group"),
        pytest.param(
            Row(None, range(6), [5], None, 6), id="a new group, only the last is finished"
        ),
        pytest.param(
            Row(0, range(6), [5], None, 6), id="nothing committed yet, only the last is finished"
        ),
        pytest.param(Row(0, [0, 1], [1], None, 2), id="offset 0 is at work"),
        pytest.param(
            Row(10, [10, 11, 12, 13], [12, 13], None, None), id="two are at work: Faust is right"
        ),
        pytest.param(
            Row(10, [10, 16], [10, 16], 17, 17), id="a hole in the log is crossed: Faust is right"
        ),
        pytest.param(
            Row(10, [10, 15, 16], [10, 16], 11, 17), id="the record behind a hole is at work"
        ),
    ],
)
async def test_an_unfinished_record_is_not_passed(row: Row) -> None:
    """The engine stops at the first unfinished record and crosses gaps."""
    assert we_commit(row) == row.ours
    assert await faust_commits(row) == row.stock
