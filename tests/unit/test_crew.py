"""The crew, with a pipeline that notes what happens: who runs when."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.stand_ins.house import Gate, House, houses, turns


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Makes houses and stops their crews."""
    async with houses() as build:
        yield build


async def test_a_slow_key_holds_back_only_itself(make: Callable[..., House]) -> None:
    """The others go past; its own next record waits; nothing is committed past it."""
    gate = Gate()
    gate.close("slow")
    house = make(gate)
    [flow] = house.flows
    house.feed(flow, "a slow b slow c")
    await house.until(lambda: len(gate.began) == 4)
    assert (gate.began, flow.settled_offset) == (["a0", "slow1", "b2", "c4"], 1)
    gate.doors["slow"].set()
    await house.until(lambda: flow.settled_offset == 5)
    assert gate.began[-1] == "slow3"


async def test_a_handler_that_never_suspends_needs_one_task(make: Callable[..., House]) -> None:
    """However many records there are."""
    house = make(Gate())
    house.feed(house.flows[0], " ".join(f"k{n}" for n in range(90)))
    await house.until(lambda: house.flows[0].settled_offset == 90)
    assert len(house.crew.hands) == 1


async def test_no_more_than_the_concurrency_is_in_hand(make: Callable[..., House]) -> None:
    """The rest waits, over all partitions, and a partition full of slow keys does not starve another."""
    gate = Gate()
    gate.close(*(f"k{n}" for n in range(50)))
    house = make(gate, concurrency=10, partitions=2)
    for flow in house.flows:
        house.feed(flow, " ".join(f"k{n}" for n in range(50)))
    await house.until(lambda: len(gate.began) == 10)
    await turns()
    assert len(gate.began) == 10
    for door in gate.doors.values():
        door.set()
    await house.until(lambda: all(flow.settled_offset == 50 for flow in house.flows))


async def test_timeouts_in_handlers_hit_the_handler_alone(make: Callable[..., House]) -> None:
    """`asyncio.timeout` cancels the task that it was entered in: the handler's own from its first step."""
    timed_out: list[str] = []

    async def handle(work: Any) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(5)
        except TimeoutError:
            timed_out.append(work.record.key.decode())

    house = make(handle)
    house.feed(house.flows[0], "a b c")
    await house.until(lambda: house.flows[0].settled_offset == 3)
    assert (sorted(timed_out), house.faults) == (["a", "b", "c"], [])


async def test_what_is_in_hand_for_too_long_is_told(make: Callable[..., House]) -> None:
    """Where it stands, and for how long; a key is told as a digest."""
    gate = Gate()
    gate.close("stuck")
    house = make(gate)
    house.feed(house.flows[0], "a stuck b")
    await house.until(lambda: len(gate.began) == 3)
    await asyncio.sleep(0.02)
    [overdue] = house.crew.overdue(0.01)
    assert (overdue["topic"], overdue["partition"], overdue["offset"]) == ("t", 0, 1)
    assert overdue["key_digest"] not in {"", "stuck"}
    assert house.crew.overdue(60) == []
    gate.doors["stuck"].set()
    await house.until(lambda: not house.crew.overdue(0))


async def test_a_bug_of_ours_ends_the_worker(make: Callable[..., House]) -> None:
    """An assertion in the engine is never swallowed."""

    async def fail(work: Any) -> None:
        raise AssertionError("impossible")

    house = make(fail)
    house.feed(house.flows[0], "a")
    await house.until(lambda: bool(house.faults))
    assert house.flows[0].settled_offset is None
