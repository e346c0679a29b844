"""Tests of coalesced sends: concurrent calls share batches in order, each with its own result."""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from aiokafka.errors import InvalidTimestampError, KafkaError, NotLeaderForPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import RecordMetadata, TopicPartition

from famulus.config import KafkaConfig, ProducerConfig
from famulus.producer.accumulator import PartitionQueue, PendingRecord
from famulus.producer.buffer_memory import BufferMemory
from famulus.producer.coalescing import CoalescingSender
from famulus.producer.connection import size_of
from famulus.producer.record_sender import RecordSender
from famulus.producer.results import NotAcknowledgedError, Published, PublishError
from famulus.serialization.records import ProducerRecord

PARTITIONS = 2
BATCH = 1_024
ROOM = 64 * 1024
BAD = b"bad"  # the broker refuses it, and so the whole batch


class Wire:
    """Connection to a log in memory.

    A batch is answered when `answer` is called; a batch with BAD is refused.
    """

    def __init__(self, log: dict[int, list[bytes]]) -> None:
        self.log = log
        self.codec = 0
        self.kafka = self
        self.client = self
        self._message_accumulator = self
        self._batches: dict[TopicPartition, Any] = {}
        self.batches: list[list[bytes]] = []
        self.open: list[tuple[int, list[bytes], asyncio.Future[RecordMetadata]]] = []
        self.is_known = True

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count nothing."""
        yield

    def partitions_known(self, _topic: str) -> int:
        """Return the number of partitions, or 0 before the first request for it."""
        return PARTITIONS if self.is_known else 0

    async def partitions(self, _topic: str, _wanted: int = 0) -> int:
        """Return the number of partitions, which is known from then on."""
        await asyncio.sleep(0)
        self.is_known = True
        return PARTITIONS

    async def partitions_for(self, _topic: str) -> set[int]:
        """Return all partitions."""
        return set(range(PARTITIONS))

    async def limit(self, _topic: str) -> None:
        """Return None: the topic has no known size limit."""

    def forget_limits(self) -> None:
        """Do nothing: no limits are known."""

    def is_gone(self, _topic: str) -> bool:
        """Return False: the topic is never deleted."""
        return False

    async def send_batch(
        self, batch: BatchBuilder, _topic: str, *, partition: int
    ) -> "asyncio.Future[RecordMetadata]":
        """Keep a batch until it is answered."""
        batch._set_producer_state(1, 1, 0)
        records = MemoryRecords(bytes(batch._build())).next_batch()
        values = [record.value for record in records]
        self.batches.append(values)
        sent: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self.open.append((partition, values, sent))
        return sent

    def answer(self, error: KafkaError | None = None) -> None:
        """Answer all open batches: refuse those with BAD, or all with *error*."""
        for partition, values, sent in self.open:
            if error is None and BAD in values:
                sent.set_exception(InvalidTimestampError())
            elif error is not None:
                sent.set_exception(error)
            else:
                begin = len(self.log[partition])
                self.log[partition] += values
                at = TopicPartition("t", partition)
                sent.set_result(RecordMetadata("t", partition, at, begin, -1, 0, 0))
        self.open = []


class Wired(RecordSender):
    """Sender whose connection is a Wire."""

    def __init__(self, **config: int) -> None:
        settings = {"batch_size": BATCH, "buffer_memory": ROOM, "linger_ms": 0, **config}
        super().__init__(KafkaConfig(producer_config=ProducerConfig.model_validate(settings)))
        self.log: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
        self.wire = Wire(self.log)
        self.wires = [self.wire]
        self.together = CoalescingSender(self, is_plain, as_it_is)

    def connected(self) -> Any:  # Any: a Wire is no Connection, but has what is used
        """Return the current wire."""
        return self.wire

    async def renew(self) -> None:
        """Connect another wire to the same log."""
        await asyncio.sleep(0)
        self.wire = Wire(self.log)
        self.wires.append(self.wire)

    def answer(self) -> None:
        """Answer on every wire: an old one may still have open batches."""
        for wire in self.wires:
            wire.answer()

    def call(self, value: bytes, partition: int = 0) -> "asyncio.Task[Published]":
        """Start a call; it begins at the next turn of the loop."""
        record = ProducerRecord("t", b"k", value, partition=partition)
        return asyncio.create_task(self.together.send("t", partition < 0, lambda: record))


def is_plain(record: ProducerRecord) -> bool:
    """Set the size of *record*; return True if nothing has to be checked before it is sent."""
    record.size = size_of(record.key, record.value, record.headers)
    return not (record.value or b"").startswith(b"large")


# The signature that CoalescingSender calls.
async def as_it_is(record: ProducerRecord, is_event: bool) -> ProducerRecord:
    """Return *record* unchanged after three turns of the loop."""
    del is_event
    for _ in range(3):
        await asyncio.sleep(0)
    return record


async def turn(times: int = 5) -> None:
    """Let the loop turn a few times."""
    for _ in range(times):
        await asyncio.sleep(0)


def value(number: int) -> bytes:
    """Return the value of record *number*."""
    return b"%d" % number


async def test_those_that_come_together_leave_together() -> None:
    """Calls that arrive while a batch is open share the next batch, except for cancelled ones."""
    line = Wired()
    first = [line.call(value(number)) for number in range(3)]
    await turn()
    assert line.wire.batches == [[b"0", b"1", b"2"]]
    others = [line.call(value(number)) for number in range(3, 7)]
    await turn()
    others[1].cancel()
    await turn()
    line.wire.answer()
    await turn()
    line.wire.answer()
    places = await asyncio.gather(*first, *others, return_exceptions=True)
    assert line.wire.batches[1:] == [[b"3", b"5", b"6"]]
    assert [getattr(place, "offset", None) for place in places] == [0, 1, 2, 3, None, 4, 5]
    assert line.together._route.memory.used == 0


async def test_a_batch_waits_for_company_until_it_is_full() -> None:
    """`LingerMs` is long here, so that only `BatchSize` ends the wait."""
    line = Wired(linger_ms=10_000)
    alone = line.call(b"first")
    await turn()
    assert not line.wire.batches
    more = [line.call(b"x" * 100) for _ in range(12)]
    await turn()
    [batch] = line.wire.batches
    assert batch[0] == b"first"
    assert 800 < sum(map(len, batch)) < BATCH
    for call in (alone, *more):
        call.cancel()


async def test_the_order_of_the_calls_is_that_of_the_log_whatever_has_to_be_checked() -> None:
    """A large record is checked first, and the calls behind it wait for that."""
    line = Wired()
    line.wire.is_known = False
    calls = [
        line.call((b"large" if number % 3 == 0 else b"") + value(number)) for number in range(30)
    ]
    while not all(call.done() for call in calls):
        await turn()
        line.wire.answer()
    assert [int(each.removeprefix(b"large")) for each in line.log[0]] == list(range(30))


async def test_one_that_is_refused_spoils_nothing_for_the_others() -> None:
    """Only the call of that record fails; the others are written in order."""
    line = Wired()
    blocking = line.call(b"-")
    await turn()
    calls = [line.call(BAD if number == 11 else value(number)) for number in range(20)]
    while not all(call.done() for call in (blocking, *calls)):
        await turn()
        line.wire.answer()
    with pytest.raises(PublishError, match="does not take its time"):
        calls[11].result()
    assert line.log[0] == [b"-", *(value(number) for number in range(20) if number != 11)]
    assert len(line.wires) > 2


async def test_what_is_wrong_with_all_is_told_to_all() -> None:
    """No single record caused the refusal, so all calls get the error."""
    line = Wired()
    calls = [line.call(value(number)) for number in range(3)]
    await turn()
    line.wire.answer(NotLeaderForPartitionError())
    assert {type(each) for each in await asyncio.gather(*calls, return_exceptions=True)} == {
        PublishError
    }
    assert len(line.wires) == 2


async def test_who_is_under_way_at_the_end_leaves_at_once() -> None:
    """A stop does not wait for `LingerMs`, and refuses further calls."""
    line = Wired(linger_ms=10_000)
    call = line.call(b"x")
    await turn()
    stopping = asyncio.create_task(line.together.stop())
    await turn()
    with pytest.raises(PublishError, match="being stopped"):
        await line.call(b"y")
    line.wire.answer()
    assert (await call).offset == 0
    await stopping


async def test_who_has_no_answer_at_the_end_is_told_so() -> None:
    """The record in flight may have been sent; those behind it were not."""
    line = Wired()
    call = line.call(b"x" * ROOM)
    await turn()
    behind = line.call(b"y")
    no_room = line.call(b"z")
    await turn()
    await line.together.stop(0.01)
    outcomes = await asyncio.gather(call, behind, no_room, return_exceptions=True)
    assert [each.may_be_sent for each in outcomes if isinstance(each, NotAcknowledgedError)] == [
        True,
        False,
        False,
    ]


async def adventure(seed: int) -> None:
    """Make random calls, cancellations, answers and refusals, then check every promise."""
    chance = random.Random(seed)
    line = Wired(buffer_memory=64 * 1024, batch_size=chance.choice([1_024, 4_096, 64 * 1024]))
    line.together._route.memory._limit = chance.choice([300, 2_000, 64 * 1024])
    line.wire.is_known = chance.random() < 0.5
    calls: list[tuple[int, bytes, asyncio.Task[Published]]] = []
    not_sent: set[bytes] = set()
    for number in range(chance.randrange(5, 120)):
        kind = chance.choice([b"", b"", b"", b"", b"large"])
        text = (
            BAD
            if chance.random() < 0.03
            else kind + value(number) + b"." * chance.choice([0, 0, 50, 400])
        )
        calls.append((partition := chance.randrange(PARTITIONS), text, line.call(text, partition)))
        if chance.random() < 0.3:
            await turn(chance.randrange(1, 4))
        if chance.random() < 0.2:
            _, text, call = chance.choice(calls)
            if not call.done():
                call.cancel()
                await turn(2)  # lets the cancelled task run
                taken = [batch for wire in line.wires for _, batch, _ in wire.open] + list(
                    line.log.values()
                )
                if not any(text in batch for batch in taken):
                    not_sent.add(text)
        if chance.random() < 0.2:
            line.answer()
    for _ in range(300):
        await turn()
        line.answer()
    assert all(call.done() for *_, call in calls), "a call has no answer"
    assert line.together._route.memory.used == 0, "room was not given back"
    for partition in range(PARTITIONS):
        order = {text: place for place, (_, text, _) in enumerate(calls)}
        logged = line.log[partition]
        assert len(set(logged)) == len(logged), "there twice"
        assert [order[text] for text in logged] == sorted(order[text] for text in logged), (
            "out of order"
        )
        for of, text, call in calls:
            if of != partition or text == BAD:
                continue
            if call.cancelled():
                assert text not in logged or text not in not_sent, (
                    "sent although it was cancelled before"
                )
            else:
                assert logged[call.result().offset] == text, "elsewhere than it was told"


@pytest.mark.parametrize("seed", range(60))
async def test_nothing_is_lost_doubled_or_overtaken(seed: int) -> None:
    """The seed decides the calls and the events between them."""
    await adventure(seed)


def requeued_at_the_end(patch: pytest.MonkeyPatch) -> None:
    """Put refused records behind later ones."""

    def refused(
        self: PartitionQueue, _connection: object, taken: Sequence[PendingRecord], error: KafkaError
    ) -> None:
        if len(taken) == 1:
            self._end(taken, [error])
            return
        for waiting in taken:
            waiting.is_handed, waiting.most = False, len(taken) // 2
            self.add(waiting)

    patch.setattr(PartitionQueue, "_refused", refused)


def not_withdrawn(patch: pytest.MonkeyPatch) -> None:
    """Send a cancelled call all the same."""
    patch.setattr(PartitionQueue, "withdraw", lambda self, waiting: None)


def not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """Let later records overtake one that has to be checked."""
    plain = CoalescingSender._place

    def place(self: CoalescingSender, waiting: PendingRecord) -> None:
        if waiting.is_ready:
            plain(self, waiting)
        else:
            asyncio.get_running_loop().call_later(0, plain, self, waiting)

    patch.setattr(CoalescingSender, "_place", place)


def let_in_by_the_side(patch: pytest.MonkeyPatch) -> None:
    """Let a new call take the memory that an earlier one waits for."""

    async def enter(self: BufferMemory) -> None:
        while self.used >= self._limit:  # the fault: it does not wait in the queue
            await asyncio.sleep(0)
        self._invited += 1

    def enter_now(self: BufferMemory) -> bool:
        self._invited += self.used < self._limit
        return self.used < self._limit

    patch.setattr(BufferMemory, "enter", enter)
    patch.setattr(BufferMemory, "enter_now", enter_now)


def room_is_kept(patch: pytest.MonkeyPatch) -> None:
    """Keep the memory of records that were sent."""
    patch.setattr(BufferMemory, "leave", lambda self, size: None)


FAULTS = [requeued_at_the_end, not_withdrawn, not_waited_for, let_in_by_the_side, room_is_kept]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_caught(
    fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The random runs above prove something only if they find faults."""
    fault(monkeypatch)
    for seed in range(60):
        try:
            async with asyncio.timeout(20):
                await adventure(seed)
        except AssertionError:
            return
    pytest.fail("nothing was noticed")
