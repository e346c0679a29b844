"""Flows and their crew, with a pipeline that notes what happens: who runs when, what a stop leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import pytest
from app.state.group import Group
from faust.types import TP

from app.engine.crew import Crew
from app.engine.flow import Flow, Limits
from app.engine.pipeline import Abandoned
from app.observe.metrics import Counts
from app.wire.envelope import Outgoing

Handler = Callable[[Any], Awaitable[None]]


def record(offset: int, key: str) -> Any:
    """A record as it comes from Kafka."""
    return SimpleNamespace(topic="t", partition=0, offset=offset, timestamp=0, key=key.encode(), value=b"v", headers=())


class Fetch:
    """Stands for what a fetch brought."""

    def __init__(self, records: list[Any]) -> None:
        self._records = records
        self.next_offset = records[-1].offset + 1

    def records(self, limit: int) -> Iterator[list[Any]]:
        """The records, *limit* at a time."""
        waiting = iter(self._records)
        while records := list(islice(waiting, limit)):
            yield records


class Carrier:
    """Stands for the pipeline: runs *handler*; records whose key begins with `!` have an effect to settle."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.counts = Counts()
        self.settled: list[int] = []
        self.settle_error: Exception | None = None
        self.may_settle = asyncio.Event()
        self.may_settle.set()

    def lanes_of(self, records: Any) -> list[object]:
        """Their keys."""
        return [record.key for record in records]

    def known(self, partition: int, records: Any) -> list[bool]:
        """Nothing is known."""
        return [False] * len(records)

    async def carry(self, work: Any, groups: Any, wait: Any) -> str:
        """Run the handler, in the groups that it may want."""
        of = work[0]
        await self.handler(SimpleNamespace(record=of, wait=wait))
        if of.key.startswith(b"!"):
            groups.filling.outbox.append(Outgoing("t", None, None))
        return "handled"

    async def settle(self, group: Group, may_apply: Callable[[], bool]) -> None:
        """Note which offsets were settled together."""
        await self.may_settle.wait()
        if self.settle_error is not None:
            raise self.settle_error
        if may_apply():
            self.settled += [offset for offset, _ in group.ended]


class House:
    """A crew and one flow for each partition."""

    def __init__(self, handler: Handler, concurrency: int, partitions: int) -> None:
        self.faults: list[Exception] = []
        self.is_member = True
        self.crew = Crew(concurrency, self.fault)
        self.carrier = Carrier(handler)
        limits = Limits(lanes=concurrency, records=100, bytes=10_000, chunk=7)
        carrier: Any = self.carrier
        self.flows = [
            Flow(TP("t", n), carrier, limits, lambda: self.is_member, self.fault, self.crew.wake)
            for n in range(partitions)
        ]

    async def fault(self, error: Exception) -> None:
        """What would end the worker."""
        self.faults.append(error)

    def feed(self, flow: Flow, keys: str) -> None:
        """Let one record for each word of *keys* arrive."""
        fetch: Any = Fetch([record(flow.position + number, key) for number, key in enumerate(keys.split())])
        flow.receive(fetch)
        self.crew.wake(flow)

    async def until(self, done: Callable[[], bool]) -> None:
        """Let the loop run until *done*."""
        async with asyncio.timeout(5):
            while not done():  # noqa: ASYNC110  # many things may bring it about
                await asyncio.sleep(0)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Makes houses and stops their crews."""
    made: list[House] = []

    def build(handler: Handler, concurrency: int = 10, partitions: int = 1) -> House:
        made.append(House(handler, concurrency, partitions))
        return made[-1]

    yield build
    for house in made:
        await house.crew.stop()


class Gate:
    """A handler that waits until its key is let through."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.doors: dict[str, asyncio.Event] = {}

    async def __call__(self, work: Any) -> None:
        """Wait at the door of the key, if it has one."""
        key = work.record.key.decode()
        self.began.append(f"{key}{work.record.offset}")
        if key in self.doors:
            await self.doors[key].wait()

    def close(self, *keys: str) -> None:
        """Make doors."""
        self.doors |= {key: asyncio.Event() for key in keys}


async def test_a_slow_key_holds_back_only_itself(make: Callable[..., House]) -> None:
    """The others go past; its own next record waits; nothing is committed past it."""
    gate = Gate()
    gate.close("slow")
    house = make(gate)
    [flow] = house.flows
    house.feed(flow, "a slow b slow c")
    await house.until(lambda: len(gate.began) == 4)
    assert (gate.began, flow.offsets.next_offset) == (["a0", "slow1", "b2", "c4"], 1)
    gate.doors["slow"].set()
    await house.until(lambda: flow.offsets.next_offset == 5)
    assert gate.began[-1] == "slow3"


async def test_a_handler_that_never_suspends_needs_one_task(make: Callable[..., House]) -> None:
    """However many records there are."""
    house = make(Gate())
    house.feed(house.flows[0], " ".join(f"k{n}" for n in range(90)))
    await house.until(lambda: house.flows[0].offsets.next_offset == 90)
    assert len(house.crew.hands) == 1


async def test_no_more_than_the_concurrency_is_in_hand(make: Callable[..., House]) -> None:
    """The rest waits, over all partitions, and a partition full of slow keys does not starve another."""
    gate = Gate()
    gate.close(*(f"k{n}" for n in range(50)))
    house = make(gate, concurrency=10, partitions=2)
    for flow in house.flows:
        house.feed(flow, " ".join(f"k{n}" for n in range(50)))
    await house.until(lambda: len(gate.began) == 10)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(gate.began) == 10
    for door in gate.doors.values():
        door.set()
    await house.until(lambda: all(flow.offsets.next_offset == 50 for flow in house.flows))


async def test_effects_are_settled_before_the_offset_and_in_groups(make: Callable[..., House]) -> None:
    """One group fills while the one before it is settled."""
    house = make(Gate())
    [flow] = house.flows
    house.carrier.may_settle.clear()
    house.feed(flow, "!a !b")
    await house.until(lambda: flow.lanes.held == 0 and flow.lanes.waiting == 0)
    for _ in range(5):
        await asyncio.sleep(0)
    house.feed(flow, "!c d !e")
    for _ in range(10):
        await asyncio.sleep(0)
    assert flow.offsets.next_offset is None
    house.carrier.may_settle.set()
    await house.until(lambda: flow.offsets.next_offset == 5)
    assert house.carrier.settled == [0, 1, 2, 3, 4]


async def test_what_cannot_be_settled_is_not_finished_and_ends_the_worker(make: Callable[..., House]) -> None:
    """Nobody knows what Kafka has of it."""
    house = make(Gate())
    house.carrier.settle_error = OSError("away")
    house.feed(house.flows[0], "!a")
    await house.until(lambda: bool(house.faults))
    assert "t-0 from offset 0 could not be settled" in str(house.faults[0])
    assert house.flows[0].offsets.next_offset is None


async def test_a_closing_flow_ends_what_is_in_hand_and_starts_nothing(make: Callable[..., House]) -> None:
    """What waits is left to whoever has the partition next."""
    gate = Gate()
    gate.close("slow")
    house = make(gate)
    [flow] = house.flows
    house.feed(flow, "slow slow a")
    await house.until(lambda: len(gate.began) == 2)
    closing = asyncio.create_task(flow.close(5))
    await asyncio.sleep(0)
    house.feed(flow, "b")
    gate.doors["slow"].set()
    assert await closing
    assert (gate.began, flow.offsets.next_offset) == (["slow0", "a2"], 1)


async def test_an_abandoned_flow_settles_nothing(make: Callable[..., House]) -> None:
    """When the drain limit is over, late results change nothing."""
    gate = Gate()
    gate.close("!slow")
    house = make(gate)
    [flow] = house.flows
    house.feed(flow, "!slow")
    await house.until(lambda: len(gate.began) == 1)
    assert not await flow.close(0.01)
    gate.doors["!slow"].set()
    await house.until(lambda: flow.lanes.held == 0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (house.carrier.settled, flow.offsets.next_offset, house.faults) == ([], None, [])


async def test_a_worker_that_lost_its_membership_settles_nothing(make: Callable[..., House]) -> None:
    """A frozen worker wakes up with effects in hand: somebody else has the partition by now."""
    house = make(Gate())
    [flow] = house.flows
    house.is_member = False
    house.feed(flow, "!a")
    await house.until(lambda: flow.lanes.held == 0 and not flow.lanes.waiting)
    await asyncio.sleep(0.12)
    flow.abandon()
    await asyncio.sleep(0.12)
    assert (house.carrier.settled, flow.offsets.next_offset) == ([], None)


async def test_a_wait_for_another_attempt_ends_with_the_flow(make: Callable[..., House]) -> None:
    """A stop does not sit out a back-off: the event is left unfinished."""

    async def wait(work: Any) -> None:
        with pytest.raises(Abandoned):
            await work.wait(60)
        raise Abandoned

    house = make(wait)
    [flow] = house.flows
    house.feed(flow, "a")
    await asyncio.sleep(0.01)
    assert await flow.close(1)
    assert flow.offsets.next_offset is None


async def test_a_full_partition_is_held_until_half_of_it_is_done(make: Callable[..., House]) -> None:
    """By records and by bytes."""
    gate = Gate()
    gate.close("slow", "late")
    house = make(gate)
    [flow] = house.flows
    house.feed(flow, "slow " + " ".join(f"k{n}" for n in range(60)) + " late " + " ".join(f"l{n}" for n in range(38)))
    await house.until(lambda: flow.is_full)
    assert flow.offsets.in_flight == 100
    gate.doors["slow"].set()
    await house.until(lambda: (flow.offsets.next_offset or 0) == 61)
    assert not flow.is_full
    big = record(flow.position, "big")
    big.value = b"x" * 20_000
    flow.receive(cast(Any, Fetch([big])))
    assert not flow.is_full
    house.crew.wake(flow)
    await house.until(lambda: flow.is_full)


async def test_what_has_no_room_is_not_unpacked_and_goes_on_when_there_is(make: Callable[..., House]) -> None:
    """Room comes when a held record ends, and when a group that holds everything back is settled."""
    gate = Gate()
    house = make(gate)
    [flow] = house.flows
    house.carrier.may_settle.clear()
    house.feed(flow, " ".join(f"!k{n}" for n in range(300)))
    await house.until(lambda: flow.is_full)
    assert flow.is_busy
    assert flow.offsets.newest < 110
    house.carrier.may_settle.set()
    await house.until(lambda: flow.offsets.next_offset == 300)
    assert not flow.is_busy


async def test_what_is_not_unpacked_can_be_forgotten(make: Callable[..., House]) -> None:
    """Reading goes on elsewhere; what was unpacked is done."""
    gate = Gate()
    gate.close("slow")
    house = make(gate, concurrency=1)
    [flow] = house.flows
    house.feed(flow, "slow " + " ".join(f"k{n}" for n in range(50)))
    await house.until(lambda: flow.lanes.held == 1)
    flow.forget()
    assert (flow.offsets.newest, flow.position) == (6, 7)
    gate.doors["slow"].set()
    await house.until(lambda: flow.offsets.next_offset == 7)
    assert not flow.has_more


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
    await house.until(lambda: house.flows[0].offsets.next_offset == 3)
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
    assert house.flows[0].offsets.next_offset is None
