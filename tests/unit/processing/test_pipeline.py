"""Tests of the pipeline with a task pool: row conflicts, attempts and a full disk."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import svcs

from famulus.errors import TransientError
from famulus.observability.metrics import Counts
from famulus.processing import failure_classification as ending
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import Dispatcher, EventTypes, handler_for
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.pipeline import Pipeline
from famulus.producer.event_bus import EventBus
from famulus.serialization.json_codec import codec_of
from famulus.state.changelog import row_key, store_mark
from famulus.state.dedupe import Dedupe, mark_key
from famulus.state.rocksdb_store import StoreError
from famulus.state.unit_of_work import current_attempt, current_unit
from tests.support.in_memory.failing import NEVER, NO_CLAIMS, failing_of
from tests.support.in_memory.house import House, houses, turns
from tests.support.in_memory.house import record as plain
from tests.support.in_memory.scenario import Deed
from tests.support.in_memory.stored import partition_of

ROW = row_key("t", b"x")
DEDUPE = Dedupe(1000)
BY_NAME = Dedupe(1000, identity=lambda event: cast("Deed", event).name)


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Yield a function that builds houses, and stop their task pools afterwards."""
    async with houses() as build:
        yield build


def flow_of(
    house: House, handler: Callable[[Deed], Awaitable[None]], dedupe: Dedupe | None = DEDUPE
) -> PartitionProcessor:
    """Return a partition processor that runs Deeds through the real pipeline."""
    dispatcher = Dispatcher(svcs.Registry(), EventBus(SimpleNamespace(), current_attempt))  # type: ignore[arg-type]
    dispatcher.add(handler_for(Deed, handler, Policy(Retry(3, 0.0)), NEVER))
    counts = Counts()
    carrier: Any = Pipeline(
        EventTypes("t", [Deed]),
        dispatcher,
        dedupe,
        dedupe,
        counts,
        "ignore",
        failing_of(counts),
        NO_CLAIMS,
    )
    house.carrier = carrier
    return house.processor(partition_of())


def deeds(*names: str) -> list[Any]:
    """Return a record for each name, each in a lane of its own."""
    found = []
    for offset, name in enumerate(names):
        deed = plain(offset, name)
        deed.value = codec_of(Deed).encode(
            Deed(name=name, lane=name, program="", fails=0, fails_late=0)
        )
        found.append(deed)
    return found


def touch() -> None:
    """Read the row and write it."""
    unit = current_unit()
    assert unit is not None
    unit.write(ROW, (unit.row(ROW) or b"") + b"1")


async def test_events_that_want_the_same_row_come_one_after_the_other(
    make: Callable[..., House],
) -> None:
    """No event is lost, although each handler suspends between two accesses of the row."""

    async def handle(event: Deed) -> None:
        touch()
        await asyncio.sleep(0)
        touch()

    house = make(None, remembers=True)
    processor = flow_of(house, handle)
    house.fetch(processor, deeds(*"abcdef"))
    await house.until(lambda: processor.checkpointed_offset == 6)
    assert processor.pipeline.counts["handled"] == 6
    assert house.steps.count("published") == 0
    assert not processor.state.owners


async def test_closing_lets_those_that_wait_for_a_row_go(make: Callable[..., House]) -> None:
    """Closing must release all waiting events, not only the first.

    Otherwise a revoke waits until its time limit and abandons the events in flight.
    """
    gate = asyncio.Event()

    async def handle(event: Deed) -> None:
        touch()
        await gate.wait()

    house = make(None, remembers=True)
    processor = flow_of(house, handle)
    house.fetch(processor, deeds(*"abcd"))
    await house.until(lambda: processor.lanes.held + processor.lanes.resting == 4)
    closing = asyncio.create_task(processor.close(5))
    await turns()
    gate.set()
    await house.until(lambda: processor.lanes.held == 0)
    assert await closing
    assert processor.checkpointed_offset == 1


async def test_two_that_fail_for_good_and_want_the_same_row_are_given_up(
    make: Callable[..., House],
) -> None:
    """A row conflict does not give back any attempts."""
    attempts: list[str] = []

    async def handle(event: Deed) -> None:
        touch()
        attempts.append(event.name)
        await asyncio.sleep(0)
        raise TransientError("away")

    house = make(None, remembers=True)
    processor = flow_of(house, handle)
    house.fetch(processor, deeds("a", "b"))
    await house.until(lambda: processor.checkpointed_offset == 2)
    assert processor.pipeline.counts["dead_lettered"] == 2
    assert (attempts.count("a"), attempts.count("b")) == (3, 3)


class Shut:
    """A full disk: while it is full, the store cannot be read."""

    def __init__(self, processor: PartitionProcessor) -> None:
        store: Any = processor.state.store
        self._store, self._get = store, store.get
        store.get = self.get
        self.asked = 0

    def get(self, key: bytes) -> None:
        """Fail to read."""
        self.asked += 1
        raise StoreError("the state is closed")

    def end(self) -> None:
        """Make the store readable again."""
        self._store.get = self._get


@pytest.mark.parametrize("dedupe", [None, DEDUPE, BY_NAME])
async def test_a_disk_that_is_full_sends_no_event_to_the_dead_letters(
    make: Callable[..., House], dedupe: Dedupe | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits for the disk.

    The event is not at fault, so that none of its attempts is used up.
    """
    monkeypatch.setattr(ending, "STORE_RETRY_S", 0.001)

    async def handle(event: Deed) -> None:
        touch()

    house = make(None, remembers=True)
    processor = flow_of(house, handle, dedupe)
    shut = Shut(processor)
    house.fetch(processor, deeds(*"aab"))
    await house.until(lambda: shut.asked > 30)
    assert not house.faults
    assert processor.checkpointed_offset is None
    shut.end()
    await house.until(lambda: processor.checkpointed_offset == 3)
    assert (processor.pipeline.counts["dead_lettered"], processor.pipeline.counts["retried"]) == (
        0,
        0,
    )
    assert processor.pipeline.counts["handled"] == (2 if dedupe is BY_NAME else 3)
    assert not processor.state.owners


async def test_what_a_handler_makes_of_a_store_that_cannot_be_read_is_undone(
    make: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler may swallow the store's error or wrap it, on any attempt."""
    monkeypatch.setattr(ending, "STORE_RETRY_S", 0.001)
    tries: list[str] = []

    async def handle(event: Deed) -> None:
        tries.append(event.name)
        if event.name == "later" and tries.count("later") == 1:
            raise TransientError("away")
        try:
            touch()
        except StoreError as error:
            if event.name == "swallows":
                return
            raise ValueError(event.name) from error

    house = make(None, remembers=True)
    processor = flow_of(house, handle, None)
    shut = Shut(processor)
    house.fetch(processor, deeds("swallows", "wraps", "later"))
    await house.until(lambda: shut.asked > 30)
    shut.end()
    await house.until(lambda: processor.checkpointed_offset == 3)
    counts = processor.pipeline.counts
    assert (counts["handled"], counts["dead_lettered"], counts["retried"]) == (3, 0, 1)
    assert processor.state.row(ROW) == b"111"


async def test_waiting_for_the_disk_ends_when_the_partition_goes_away(
    make: Callable[..., House],
) -> None:
    """The next owner of the partition reads the event again."""

    async def handle(event: Deed) -> None:
        touch()

    house = make(None, remembers=True)
    processor = flow_of(house, handle)
    shut = Shut(processor)
    house.fetch(processor, deeds("a", "b"))
    await house.until(lambda: processor.lanes.resting == 2)
    assert await processor.close(5)
    assert shut.asked
    assert processor.checkpointed_offset is None
    assert (house.faults, processor.state.filling.events, processor.state.filling.outbox) == (
        [],
        0,
        [],
    )


async def test_marks_without_a_type_are_recognised_and_two_types_of_one_id_are_two_events(
    make: Callable[..., House],
) -> None:
    """Earlier versions wrote seen marks whose keys hold the identity alone."""
    seen: list[str] = []

    async def handle(event: Deed) -> None:
        seen.append(event.name)

    house = make(None, remembers=True)
    processor = flow_of(house, handle, BY_NAME)
    processor.state.filling.marks[mark_key(b"old")] = store_mark(0, 0)
    processor.state.filling.marks[mark_key(b"other.Deed\0new")] = store_mark(0, 0)
    house.fetch(processor, deeds("old", "new", "new"))
    await house.until(lambda: processor.checkpointed_offset == 3)
    assert seen == ["new"]
    assert processor.pipeline.counts["duplicate"] == 2


async def test_a_coroutine_that_a_handler_returns_is_no_success(make: Callable[..., House]) -> None:
    """The coroutine was never awaited, so that its event becomes a dead letter."""

    async def work() -> None: ...

    async def handle(event: Deed) -> Any:
        return work()

    house = make(None, remembers=True)
    processor = flow_of(house, handle)
    house.fetch(processor, deeds("a"))
    await house.until(lambda: processor.checkpointed_offset == 1)
    assert (processor.pipeline.counts["handled"], processor.pipeline.counts["dead_lettered"]) == (
        0,
        1,
    )
