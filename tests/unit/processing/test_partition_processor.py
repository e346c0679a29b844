"""Tests of the partition processor: order of checkpoints, closing, and limits on memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from famulus.errors import UnreadableError
from famulus.processing.deferral import Defer, RetryContext, after_delay
from famulus.processing.in_flight import InFlight
from famulus.state.changelog import SourcePosition
from famulus.state.partition_state import PartitionState
from tests.support.in_memory.house import Fetch, Gate, House, houses, record, turns


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Yield a function that builds houses, and stop their task pools afterwards."""
    async with houses() as build:
        yield build


@pytest.mark.parametrize("remembers", [True, False])
async def test_effects_are_settled_before_the_offset_and_in_groups(
    make: Callable[..., House], *, remembers: bool
) -> None:
    """One checkpoint fills while the one before it is written.

    Records to publish are sent first.
    """
    house = make(Gate(), remembers=remembers)
    [processor] = house.processors
    house.may_settle.clear()
    house.feed(processor, "!a !b")
    await house.until(lambda: processor.lanes.held == 0 and processor.lanes.waiting == 0)
    await turns()
    house.feed(processor, "!c d !e")
    await turns()
    assert processor.checkpointed_offset is None
    assert house.carrier.counts["handled"] == 0
    house.may_settle.set()
    await house.until(lambda: processor.checkpointed_offset == 5)
    assert house.carrier.counts["handled"] == 5
    settled = ["publish 0 1", "published", "settle 0 1", "publish 2 4", "published", "settle 2 3 4"]
    steps = [step for step in house.steps if step != "publishing"]
    assert steps == [step for step in settled if remembers or not step.startswith("settle")]


@pytest.mark.parametrize("remembers", [True, False])
async def test_what_cannot_be_settled_is_not_finished_and_ends_the_worker(
    make: Callable[..., House], *, remembers: bool
) -> None:
    """After such an error it is unknown which effects Kafka has."""
    house = make(Gate(), remembers=remembers)
    house.settle_error = OSError("away")
    house.feed(house.processors[0], "!a")
    await house.until(lambda: bool(house.faults))
    assert "t-0 could not be settled: OSError at tests" in str(house.faults[0])
    assert house.processors[0].checkpointed_offset is None
    assert house.carrier.counts["handled"] == 0


async def test_the_processed_row_says_what_is_settled_ahead(make: Callable[..., House]) -> None:
    """Records behind a slow one are settled, and the next owner does not handle them again."""
    gate = Gate()
    gate.close("slow")
    house = make(gate, remembers=True)
    [processor] = house.processors
    house.fetch(
        processor, [record(n, "slow" if n == 3 else f"k{n}", 1000 + n) for n in (1, 2, 3, 5, 6, 8)]
    )
    await house.until(lambda: bool(house.settled) and house.settled[-1].counts == {"handled": 5})
    processed = house.settled[-1]
    # The gaps 4 and 7 in the log count as settled.
    assert (processed.next_offset, processed.ahead, processed.stream_ms) == (3, (1, 5), 1002)
    assert processor.checkpointed_offset == 3
    state = PartitionState(0, None, 1000)
    state.processed = processed
    following = house.processor(state)
    gate.began.clear()
    house.fetch(following, [record(n, f"k{n}", 1000 + n) for n in (3, 5, 6, 8, 9)])
    await house.until(lambda: following.checkpointed_offset == 10)
    assert gate.began == ["k33", "k99"]
    assert (house.settled[-1].ahead, house.settled[-1].stream_ms) == ((), 1009)
    assert house.settled[-1].counts == {"handled": 7}


async def test_what_an_earlier_owner_settled_may_be_committed_at_once(
    make: Callable[..., House],
) -> None:
    """The last commit of that owner may be lost, and no further record may arrive."""
    state = PartitionState(0, None, 1000)
    state.processed = SourcePosition(3)
    processor = make(Gate(), remembers=True).processor(state)
    assert processor.checkpointed_offset == 3


async def test_nothing_of_what_is_ahead_is_forgotten_before_it_is_reached(
    make: Callable[..., House],
) -> None:
    """Offsets far ahead stay in the row although none of them was read yet."""
    house = make(Gate(), remembers=True)
    state = PartitionState(0, None, 1000)
    state.processed = SourcePosition(3, (1, 1, 90, 1))
    processor = house.processor(state)
    house.fetch(processor, [record(3, "a"), record(4, "b")])
    await house.until(lambda: processor.checkpointed_offset == 5)
    assert (house.settled[-1].next_offset, house.settled[-1].ahead) == (5, (90, 1))


async def test_a_closing_flow_ends_what_is_in_hand_and_starts_nothing(
    make: Callable[..., House],
) -> None:
    """Waiting records are left to the next owner of the partition."""
    gate = Gate()
    gate.close("slow")
    house = make(gate)
    [processor] = house.processors
    house.feed(processor, "slow slow a")
    await house.until(lambda: len(gate.began) == 2)
    closing = asyncio.create_task(processor.close(5))
    await asyncio.sleep(0)
    house.feed(processor, "b")
    gate.doors["slow"].set()
    assert await closing
    assert (gate.began, processor.checkpointed_offset) == (["slow0", "a2"], 1)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("event", ["slow", "!slow"])
async def test_a_closed_flow_has_settled_what_was_in_hand(
    make: Callable[..., House], event: str, *, remembers: bool
) -> None:
    """Its offset is committed after the close.

    A close that returned too early would have the event handled again.
    """
    gate = Gate()
    gate.close(event)
    house = make(gate, remembers=remembers)
    [processor] = house.processors
    house.feed(processor, event)
    await house.until(lambda: len(gate.began) == 1)
    closing = asyncio.create_task(processor.close(5))
    house.may_settle.clear()
    gate.doors[event].set()
    await turns()
    assert closing.done() == (not remembers and not event.startswith("!"))
    house.may_settle.set()
    assert await closing
    assert processor.checkpointed_offset == 1


async def test_what_is_known_of_an_event_that_rests_is_settled_before_a_flow_is_closed(
    make: Callable[..., House],
) -> None:
    """The next owner continues to count its attempts.

    No timer is started for an event that is deferred during a close.
    """
    armed: list[str] = []
    failed = asyncio.Event()

    async def fail(work: Any) -> None:
        await failed.wait()
        processor.state.group_for(6).rows[b"tried"] = b"1"
        raise Defer(RetryContext(), lambda _: armed.append("armed"))  # type: ignore[arg-type,return-value]

    house = make(fail, remembers=True)
    [processor] = house.processors
    house.feed(processor, "a")
    await house.until(lambda: processor.lanes.held == 1)
    closing = asyncio.create_task(processor.close(5))
    house.may_settle.clear()
    failed.set()
    await turns()
    assert not closing.done()
    house.may_settle.set()
    assert await closing
    assert (processor.checkpointed_offset, len(house.settled), armed) == (0, 1, [])


@pytest.mark.parametrize("remembers", [True, False])
async def test_an_abandoned_flow_settles_nothing(
    make: Callable[..., House], *, remembers: bool
) -> None:
    """Results that come after the time limit of the drain have no effect."""
    gate = Gate()
    gate.close("!slow")
    house = make(gate, remembers=remembers)
    [processor] = house.processors
    house.feed(processor, "!slow")
    await house.until(lambda: len(gate.began) == 1)
    assert not await processor.close(0.01)
    gate.doors["!slow"].set()
    await house.until(lambda: processor.lanes.held == 0)
    await turns()
    assert (house.steps, processor.checkpointed_offset, house.faults) == ([], None, [])


async def test_a_worker_that_lost_its_membership_settles_nothing(
    make: Callable[..., House],
) -> None:
    """A frozen worker wakes up with unwritten effects while another one owns the partition."""
    house = make(Gate(), remembers=True)
    [processor] = house.processors
    house.is_member = False
    house.feed(processor, "!a")
    await house.until(lambda: processor.lanes.held == 0 and not processor.lanes.waiting)
    await asyncio.sleep(0.12)
    processor.abandon()
    await asyncio.sleep(0.12)
    assert (house.steps, processor.checkpointed_offset) == ([], None)


async def test_a_wait_for_another_attempt_ends_with_the_flow(make: Callable[..., House]) -> None:
    """A stop does not wait for a back-off, and the event is left unfinished."""

    async def rest(work: Any) -> None:
        raise Defer(RetryContext(), after_delay(60))

    house = make(rest)
    [processor] = house.processors
    house.feed(processor, "a")
    await house.until(lambda: processor.lanes.resting == 1)
    assert await processor.close(1)
    assert processor.checkpointed_offset is None


async def test_a_full_partition_is_held_until_half_of_it_is_done(
    make: Callable[..., House],
) -> None:
    """The limits are on records and on bytes."""
    gate = Gate()
    gate.close("early", "slow", "late")
    house = make(gate)
    [processor] = house.processors
    house.feed(processor, " ".join(["early"] * 20 + ["slow"] * 31 + ["late"] * 49))
    await house.until(lambda: processor.in_flight.is_full)
    assert processor.offsets.in_flight == 100
    gate.doors["slow"].set()
    await house.until(lambda: processor.offsets.in_flight == 69)
    await house.until(lambda: processor.in_flight.is_full)
    gate.doors["early"].set()
    await house.until(lambda: processor.offsets.in_flight == 49)
    assert not processor.in_flight.is_full
    big = record(processor.position, "late")
    big.value = b"x" * 20_000
    house.fetch(processor, [big])
    await house.until(lambda: processor.in_flight.is_full)


async def test_what_is_finished_behind_a_slow_record_fills_nothing(
    make: Callable[..., House],
) -> None:
    """One record may wait for long while the partition goes on.

    Neither records nor bytes that are finished behind it count.
    """
    gate = Gate()
    gate.close("slow")
    house = make(gate, remembers=True)
    [processor] = house.processors
    for _ in range(20):
        records = [
            record(processor.position + n, "slow" if processor.position + n == 0 else f"k{n}")
            for n in range(50)
        ]
        for of in records:
            of.value = b"x" * 100
        house.fetch(processor, records)
        await house.until(
            lambda: (
                processor.offsets.newest + 1 == processor.position
                and processor.offsets.in_flight == 1
            )
        )
    assert not processor.in_flight.is_full
    await house.until(lambda: bool(house.settled) and house.settled[-1].ahead == (1, 999))
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 1_000)


async def test_what_has_no_room_is_not_unpacked_and_goes_on_when_there_is(
    make: Callable[..., House],
) -> None:
    """Room appears when a record ends, or when a checkpoint that holds all back is written."""
    house = make(Gate(), remembers=True)
    [processor] = house.processors
    house.may_settle.clear()
    house.feed(processor, " ".join(f"!k{n}" for n in range(300)))
    await house.until(lambda: processor.in_flight.is_full)
    assert processor.is_busy
    assert processor.offsets.newest < 210
    house.may_settle.set()
    await house.until(lambda: processor.checkpointed_offset == 300)
    assert not processor.is_busy


async def test_what_is_not_unpacked_can_be_forgotten(make: Callable[..., House]) -> None:
    """A seek discards the buffered records, and those that are unpacked are handled."""
    gate = Gate()
    gate.close("slow")
    house = make(gate, concurrency=1)
    [processor] = house.processors
    house.feed(processor, "slow " + " ".join(f"k{n}" for n in range(50)))
    await house.until(lambda: processor.lanes.held == 1)
    processor.forget()
    assert (processor.offsets.newest, processor.position) == (6, 7)
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 7)
    assert not processor.has_more


async def test_the_streams_time_is_kept_over_records_that_were_settled_ahead(
    make: Callable[..., House],
) -> None:
    """The next owner needs the newest time before its position.

    Otherwise an old event would pass for a recent one.
    """
    house = make(Gate(), remembers=True)
    state = PartitionState(0, None, 1000)
    state.processed = SourcePosition(3, (0, 7), 1000)
    processor = house.processor(state)
    # All records of this chunk are settled already.
    house.fetch(processor, [record(n, f"k{n}", 2000 + n) for n in range(3, 10)])
    await house.until(lambda: processor.offsets.next_offset == 10)
    gate = Gate()
    gate.close("slow")
    house.carrier.handler = gate
    house.fetch(processor, [record(10, "slow", 500), record(11, "a", 3000)])
    await house.until(lambda: bool(house.settled))
    processed = house.settled[-1]
    assert (processed.next_offset, processed.ahead, processed.stream_ms) == (10, (1, 1), 2009)


async def test_a_paused_flow_ends_what_is_in_hand_and_starts_nothing(
    make: Callable[..., House],
) -> None:
    """After a resume all waiting records are handled in order, each once.

    A halted partition is not resumed.
    """
    gate = Gate()
    gate.close("slow")
    house = make(gate, remembers=True)
    [processor] = house.processors
    house.feed(processor, "slow a slow")
    await house.until(lambda: processor.lanes.held == 1 and gate.began == ["slow0", "a1"])
    processor.pause("why")
    house.feed(processor, "b c")
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 2)
    await turns()
    assert gate.began == ["slow0", "a1"]
    processor.pause("another reason")
    await turns()
    assert gate.began == ["slow0", "a1"]
    processor.pause("")
    await house.until(lambda: processor.checkpointed_offset == 5)
    assert sorted(gate.began[2:]) == ["b3", "c4", "slow2"]
    processor.halted = "a dead letter"
    processor.pause("why")
    processor.pause("")
    house.feed(processor, "d")
    await turns()
    assert processor.checkpointed_offset == 5


async def test_what_cannot_be_read_halts_its_partition_alone(make: Callable[..., House]) -> None:
    """The records before it are handled and settled, nothing behind it starts, and others go on."""
    house = make(Gate(), partitions=2)
    first, second = house.processors

    class Broken(Fetch):
        def records(self, limit: int) -> Iterator[list[Any]]:
            yield from super().records(limit)
            raise UnreadableError("t-0: the records from offset 2 on cannot be read: it is a bomb")

    first.receive(Broken([record(0, "a"), record(1, "b")]))
    house.feed(second, "c d")
    house.task_pool.wake(first)
    await house.until(lambda: first.checkpointed_offset == 2 and second.checkpointed_offset == 2)
    await house.until(lambda: bool(first.halted))
    assert first.halted == "t-0: the records from offset 2 on cannot be read: it is a bomb"
    assert (second.halted, house.faults) == ("", [])
    house.fetch(first, [record(9, "e")])
    house.fetch(second, [record(2, "f")])
    await house.until(lambda: second.checkpointed_offset == 3)
    assert first.checkpointed_offset == 2


async def test_nobody_sees_that_the_crew_finishes_many_at_once(make: Callable[..., House]) -> None:
    """The pool finishes many records at once.

    Other tasks and a fault still find all earlier records finished.
    """
    gate = Gate()
    gate.close("slow")
    house = make(gate)
    [processor] = house.processors
    seen: list[tuple[int | None, int, int]] = []

    async def look() -> None:
        while not gate.began or gate.began[-1] != "slow2":  # the very next iteration of the loop
            await asyncio.sleep(0)
        seen.append(
            (
                processor.checkpointed_offset,
                processor.offsets.in_flight,
                house.carrier.counts["handled"],
            )
        )

    looking = asyncio.create_task(look())
    house.feed(processor, "a b slow c")
    await looking
    assert seen == [(2, 2, 2)]
    await house.until(lambda: house.carrier.counts["handled"] == 3)
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 4)

    async def broken(work: Any) -> None:
        if work.record.key == b"bug":
            raise AssertionError("ours")

    house.carrier.handler = broken
    house.feed(processor, "a b bug c")
    await house.until(lambda: bool(house.faults))
    assert processor.checkpointed_offset == 6


async def test_a_partition_with_little_room_does_not_stall(make: Callable[..., House]) -> None:
    """Records that are done in an iteration make room in the same iteration."""
    house = make(Gate())
    [processor] = house.processors
    processor.in_flight = InFlight(SourcePosition(0), records=5, bytes=10_000)
    processor.offsets = processor.in_flight.offsets
    house.feed(processor, " ".join(f"k{n}" for n in range(40)))
    await house.until(lambda: processor.checkpointed_offset == 40)


@pytest.mark.parametrize("remembers", [True, False])
async def test_idle_partition_settles_what_is_no_record(
    make: Callable[..., House], *, remembers: bool
) -> None:
    """Transactions end with markers, and a group that never commits them would lag forever."""
    gate = Gate()
    gate.close("slow")
    house = make(gate, remembers=remembers)
    [processor] = house.processors
    house.fetch(processor, [record(0, "a"), record(1, "b")], 4)
    await house.until(lambda: processor.checkpointed_offset == 4)
    house.fetch(processor, [], 9)  # only markers, or records of aborted transactions
    await house.until(lambda: processor.checkpointed_offset == 9)
    assert processor.behind(9) == 0
    house.fetch(processor, [record(9, "slow"), record(11, "c")], 13)
    house.fetch(processor, [], 14)
    await turns()
    assert processor.checkpointed_offset == 9
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 14)
    assert house.carrier.counts["handled"] == 4
    if remembers:
        last = house.settled[-1]
        assert (last.next_offset, last.ahead, last.counts) == (14, (), {"handled": 4})


async def test_runs_of_removed_records_are_forgotten_where_the_log_was_read_further(
    make: Callable[..., House],
) -> None:
    """The records were settled ahead, and compaction has removed them since."""
    house = make(Gate(), remembers=True)
    state = PartitionState(0, None, 1000)
    state.processed = SourcePosition(3, (1, 2, 2, 4))  # 4 and 5, 8 to 11
    processor = house.processor(state)
    house.fetch(processor, [record(3, "a"), record(7, "b")], 10)
    await house.until(lambda: processor.checkpointed_offset == 10)
    assert house.settled[-1].ahead == (0, 2)
    house.fetch(processor, [record(11, "c"), record(12, "d")], 13)
    await house.until(lambda: processor.checkpointed_offset == 13)
    assert (list(house.settled[-1].ahead), house.carrier.counts["handled"]) == ([], 3)
