"""Tests of the task pool: which handler runs when, with a pipeline that records the order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.in_memory.house import Gate, House, houses, turns


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Yield a function that builds houses, and stop their task pools afterwards."""
    async with houses() as build:
        yield build


async def test_a_slow_key_holds_back_only_itself(make: Callable[..., House]) -> None:
    """Other keys pass it, its own next record waits, and no offset behind it is committed."""
    gate = Gate()
    gate.close("slow")
    house = make(gate)
    [processor] = house.processors
    house.feed(processor, "a slow b slow c")
    await house.until(lambda: len(gate.began) == 4)
    assert (gate.began, processor.checkpointed_offset) == (["a0", "slow1", "b2", "c4"], 1)
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 5)
    assert gate.began[-1] == "slow3"


async def test_a_handler_that_never_suspends_needs_one_task(make: Callable[..., House]) -> None:
    house = make(Gate())
    house.feed(house.processors[0], " ".join(f"k{n}" for n in range(90)))
    await house.until(lambda: house.processors[0].checkpointed_offset == 90)
    assert len(house.task_pool.slots) == 1


async def test_no_more_than_the_concurrency_is_in_hand(make: Callable[..., House]) -> None:
    """The limit holds over all partitions, and one full of slow keys does not starve another."""
    gate = Gate()
    gate.close(*(f"k{n}" for n in range(50)))
    house = make(gate, concurrency=10, partitions=2)
    for processor in house.processors:
        house.feed(processor, " ".join(f"k{n}" for n in range(50)))
    await house.until(lambda: len(gate.began) == 10)
    await turns()
    assert len(gate.began) == 10
    for door in gate.doors.values():
        door.set()
    await house.until(
        lambda: all(processor.checkpointed_offset == 50 for processor in house.processors)
    )


async def test_timeouts_in_handlers_hit_the_handler_alone(make: Callable[..., House]) -> None:
    """`asyncio.timeout` cancels the task in which it was entered.

    The handler runs in that task from its first step.
    """
    timed_out: list[str] = []

    async def handle(work: Any) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            timed_out.append(work.record.key.decode())

    house = make(handle)
    house.feed(house.processors[0], "a b c")
    await house.until(lambda: house.processors[0].checkpointed_offset == 3)
    assert (sorted(timed_out), house.faults) == (["a", "b", "c"], [])


async def test_what_is_in_hand_for_too_long_is_told(make: Callable[..., House]) -> None:
    """The report has a digest of the key, not the key."""
    gate = Gate()
    gate.close("stuck")
    house = make(gate)
    house.feed(house.processors[0], "a stuck b")
    await house.until(lambda: len(gate.began) == 3)
    await asyncio.sleep(0.02)
    [overdue] = house.task_pool.overdue(0.01)
    assert (overdue["topic"], overdue["partition"], overdue["offset"]) == ("t", 0, 1)
    assert overdue["key_digest"] not in {"", "stuck"}
    assert house.task_pool.overdue(60) == []
    gate.doors["stuck"].set()
    await house.until(lambda: not house.task_pool.overdue(0))


async def test_a_bug_of_ours_ends_the_worker(make: Callable[..., House]) -> None:
    """An assertion in the engine is never swallowed."""

    async def fail(work: Any) -> None:
        raise AssertionError("impossible")

    house = make(fail)
    house.feed(house.processors[0], "a")
    await house.until(lambda: bool(house.faults))
    assert house.processors[0].checkpointed_offset is None


async def test_the_concurrency_changes_while_records_are_in_hand(
    make: Callable[..., House],
) -> None:
    """More events start at once.

    After a decrease the excess events end first, and none starts in their place.
    """
    keys = [f"k{n}" for n in range(30)]
    gate = Gate()
    gate.close(*keys)
    house = make(gate, concurrency=4)
    [processor] = house.processors
    processor.widen(100)
    house.feed(processor, " ".join(keys))
    await house.until(lambda: len(gate.began) == 4)
    house.task_pool.resize(10)
    await house.until(lambda: len(gate.began) == 10)
    house.task_pool.resize(3)
    for number, key in enumerate(keys[:8], 1):  # seven end without a successor, then each has one
        gate.doors[key].set()
        await house.until(lambda number=number: processor.lanes.held == max(10 - number, 3))  # type: ignore[misc]
        await turns()
        assert len(gate.began) == 10 + max(number - 7, 0)
    for door in gate.doors.values():
        door.set()
    await house.until(lambda: processor.checkpointed_offset == 30)


async def test_the_concurrency_of_a_partition_changes(make: Callable[..., House]) -> None:
    """A paused partition starts nothing because of the change."""
    keys = [f"k{n}" for n in range(9)]
    gate = Gate()
    gate.close(*keys)
    house = make(gate)
    [processor] = house.processors
    processor.widen(2)
    house.feed(processor, " ".join(keys))
    await house.until(lambda: len(gate.began) == 2)
    await turns()
    assert len(gate.began) == 2
    processor.pause("why")
    processor.widen(5)
    await turns()
    assert len(gate.began) == 2
    processor.pause("")
    await house.until(lambda: len(gate.began) == 5)
    processor.widen(1)
    for number, key in enumerate(keys[:5], 1):
        gate.doors[key].set()
        await house.until(lambda number=number: processor.lanes.held == max(5 - number, 1))  # type: ignore[misc]
    await house.until(lambda: len(gate.began) == 6)
    for door in gate.doors.values():
        door.set()
    await house.until(lambda: processor.checkpointed_offset == 9)
