"""Tests of claim checks in the engine: memory, outages of the store, and publishing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import svcs

from famulus import Event
from famulus.config import ClaimCheckConfig, KafkaConfig
from famulus.deadletter.record import our_headers
from famulus.errors import ClaimStoreError, PermanentError, TransientError
from famulus.observability.metrics import Counts
from famulus.processing import failure_classification as ending
from famulus.processing import payload_redeeming as payload_redeemer
from famulus.processing.failures.circuit_breaker import CLOSED, Breaker
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import Dispatcher, EventTypes, handler_for
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.payload_redeeming import PayloadRedeemer
from famulus.processing.pipeline import Pipeline
from famulus.producer.event_bus import EventBus
from famulus.producer.payload_store import PayloadStore
from famulus.producer.producer import Producer
from famulus.serialization.claim_check import CLAIMED
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ProducerRecord, derived_id
from famulus.state.unit_of_work import current_attempt
from tests.support.in_memory.failing import NEVER, failing_of
from tests.support.in_memory.house import House, houses
from tests.support.in_memory.house import record as plain
from tests.support.in_memory.stored import partition_of

LARGE = "secret" * 1_000
SIZE = 7_000  # lower bound of the size of such an event


class Parcel(Event, namespace="test.Parcel", topic="t", key="name"):
    """An event that may be large."""

    name: str
    note: str


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Yield a function that builds houses, and stop their task pools afterwards."""
    async with houses() as build:
        yield build


class Depot:
    """A partition processor that redeems Parcels from *root*, two at once."""

    def __init__(
        self, house: House, root: Path, handler: Callable[[Parcel], Awaitable[None]]
    ) -> None:
        self.house = house
        self.root = root
        self.published: list[ProducerRecord] = []
        self.store = PayloadStore(
            ClaimCheckConfig(
                store=str(root), threshold_bytes=1_000, max_bytes=SIZE, in_hand_bytes=2 * SIZE
            )
        )
        self.payload_redeemer = PayloadRedeemer(self.store)
        self.bus = EventBus(Producer(KafkaConfig(), self.store), current_attempt)
        dispatcher = Dispatcher(svcs.Registry(), self.bus)
        dispatcher.add(handler_for(Parcel, handler, Policy(Retry(2, 0.01)), NEVER))
        self.counts = Counts()
        carrier: Any = Pipeline(
            EventTypes("t", [Parcel]),
            dispatcher,
            None,
            None,
            self.counts,
            "ignore",
            failing_of(self.counts),
            self.payload_redeemer,
        )
        house.carrier = carrier
        publish = house.publish

        async def keep(records: Any) -> None:
            self.published += records
            await publish([])

        house.publish = keep  # type: ignore[method-assign]
        self.processor: PartitionProcessor = house.processor(partition_of())

    async def feed(self, *names: str) -> None:
        """Let large Parcels arrive."""
        records = []
        for offset, name in enumerate(names):
            value = codec_of(Parcel).encode(Parcel(name=name, note=LARGE))
            slim = await self.store.check_in(ProducerRecord("t", name.encode(), value))
            record = plain(offset, name)
            record.value, record.headers = slim.value, slim.headers
            records.append(record)
        self.house.fetch(self.processor, records)

    async def settled(self, offset: int) -> None:
        """Wait until everything below *offset* is settled."""
        await self.house.until(
            lambda: self.processor.checkpointed_offset == offset or bool(self.house.faults)
        )
        assert not self.house.faults
        assert self.payload_redeemer.room.left == 2 * SIZE


async def test_no_more_is_in_hand_than_there_is_room_for(
    make: Callable[..., House], tmp_path: Path
) -> None:
    """The limit holds when handlers succeed, fail or are deferred.

    A deferred event holds no payload.
    """
    at_work = 0
    most: list[int] = []
    tries: list[str] = []

    async def handle(parcel: Parcel) -> None:
        nonlocal at_work
        at_work += 1
        most.append(at_work)
        tries.append(parcel.name)
        await asyncio.sleep(0.001)
        at_work -= 1
        if parcel.name in "bc" and tries.count(parcel.name) == 1:
            raise TransientError(parcel.note)
        if parcel.name == "d":
            raise PermanentError(parcel.note)

    depot = Depot(make(None, remembers=True), tmp_path, handle)
    await depot.feed(*"abcdefgh")
    await depot.settled(8)
    assert max(most) <= 2
    assert sorted(tries) == sorted("aabbccdefgh"[1:])
    assert (depot.counts["handled"], depot.counts["dead_lettered"], depot.counts["retried"]) == (
        7,
        1,
        2,
    )
    [letter] = depot.published
    assert letter.value == CLAIMED
    assert our_headers(letter.headers)["__streams.errors.message"] == b"***"
    assert not any(b"secret" in value for _, value in letter.headers)


async def test_one_at_a_time_asks_for_a_store_that_is_away(
    make: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other events wait, the store is asked less and less often, and then all go on.

    No attempt is counted meanwhile.
    """
    monkeypatch.setattr(
        payload_redeemer, "BREAKER", Breaker(1, 1, wait_initial_s=0.02, wait_max_s=0.05)
    )
    root = tmp_path / "claims"

    async def handle(parcel: Parcel) -> None:
        """Do nothing."""

    depot = Depot(make(None, remembers=True), root, handle)
    await depot.store.check_in(ProducerRecord("t", None, b"x" * 2_000))
    payload, asked = depot.store.payload, 0

    async def count(claim: Any) -> bytes:
        nonlocal asked
        asked += 1
        return await payload(claim)

    monkeypatch.setattr(depot.store, "payload", count)
    await depot.feed(*"abcdef")
    root.rename(tmp_path / "gone")
    await depot.house.until(lambda: asked >= 6 and depot.payload_redeemer.breaker.waiting >= 5)
    await asyncio.sleep(0.3)
    assert asked < 20
    assert depot.processor.checkpointed_offset is None
    (tmp_path / "gone").rename(root)
    await depot.settled(6)
    assert (depot.counts["handled"], depot.counts["retried"], depot.counts["dead_lettered"]) == (
        6,
        0,
        0,
    )
    assert depot.payload_redeemer.breaker.state is CLOSED
    assert not depot.store.away


async def test_what_is_published_side_by_side_keeps_its_ids(
    make: Callable[..., House], tmp_path: Path
) -> None:
    """The ids follow the order of the calls, however long each takes.

    A second run must give every event the same id.
    """

    async def handle(parcel: Parcel) -> None:
        names = ["large", "small", "large too"]
        await asyncio.gather(
            *(depot.bus.publish(Parcel(name=n, note=LARGE if "large" in n else "")) for n in names)
        )

    depot = Depot(make(None, remembers=True), tmp_path, handle)
    check_in, finished = depot.store.check_in, asyncio.Event()

    async def slow(record: ProducerRecord) -> ProducerRecord:
        if record.key == b"large":
            await finished.wait()
        slim = await check_in(record)
        finished.set()
        return slim

    await depot.feed("a")
    depot.store.check_in = slow  # type: ignore[method-assign]
    await depot.settled(1)
    handler = f"{handle.__module__}.{handle.__qualname__}"
    assert [(r.key, dict(r.headers)["ce_id"].decode()) for r in depot.published] == [
        (name, derived_id("t/0/0", handler, place))
        for place, name in enumerate([b"large", b"small", b"large too"])
    ]
    assert [record.value == CLAIMED for record in depot.published] == [True, False, True]


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_store_that_is_away_undoes_who_publishes(
    make: Callable[..., House], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, swallows: bool
) -> None:
    """The event is handled again once the store is available.

    Nothing is published before, even if the handler swallows the error.
    """
    monkeypatch.setattr(ending, "STORE_RETRY_S", 0.01)
    tries = 0

    async def handle(parcel: Parcel) -> None:
        nonlocal tries
        tries += 1
        await depot.bus.publish(Parcel(name="first", note=""))
        try:
            await depot.bus.publish(Parcel(name="large", note=LARGE))
        except ClaimStoreError:
            if not swallows:
                raise

    depot = Depot(make(None, remembers=True), tmp_path, handle)
    await depot.feed("a")
    check_in = depot.store.check_in

    async def away(record: ProducerRecord) -> ProducerRecord:
        await asyncio.sleep(0)
        raise ClaimStoreError("away")

    depot.store.check_in = away  # type: ignore[method-assign]
    await depot.house.until(lambda: tries > 5)
    assert not depot.published
    depot.store.check_in = check_in  # type: ignore[method-assign]
    await depot.settled(1)
    assert [record.key for record in depot.published] == [b"first", b"large"]
    assert (depot.counts["handled"], depot.counts["retried"]) == (1, 0)


async def test_an_event_that_is_too_large_fails_for_good(
    make: Callable[..., House], tmp_path: Path
) -> None:
    """The handler that publishes the event fails with a permanent error."""

    async def handle(parcel: Parcel) -> None:
        await depot.bus.publish(Parcel(name="huge", note=LARGE * 2))

    depot = Depot(make(None, remembers=True), tmp_path, handle)
    await depot.feed("a")
    await depot.settled(1)
    [letter] = depot.published
    assert our_headers(letter.headers)["famulus-failure"] == b"permanent"
