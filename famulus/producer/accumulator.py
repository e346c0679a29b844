"""Records that wait for company: those of one partition, in the order of their calls, and how they leave.

A batch leaves when it is full, when its first record has waited for `LingerMs`, or, while an
earlier one of its partition is on its way, when that one has ended: what comes meanwhile has
company. Nothing is handed to aiokafka before it can go, so a call that gives up until then has sent
nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import (
    CorruptRecordException,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition

from famulus.producer.batches import handed_over
from famulus.producer.buffer_memory import BufferMemory
from famulus.producer.connection import MISSING_S, Connection
from famulus.producer.results import Published
from famulus.serialization.records import ProducerRecord

LOOK_S = 0.5  # so often we look whether a topic is still there, and whether anybody still waits
OVERHEAD = 75  # of the size of a record: what only the first one of a batch has
BY_ONE = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    CorruptRecordException,
)
Outcome = Published | Exception


class Stopped(Exception):  # noqa: N818  # no error of anybody's
    """What a call is told that is under way when the producer is stopped, and has no answer."""


class PendingRecord:
    """A record on its way, and the call that waits for it."""

    __slots__ = (
        "at_ms",
        "is_handed",
        "is_ready",
        "most",
        "outcome",
        "queue",
        "record",
        "since_s",
        "size",
    )

    def __init__(
        self, record: ProducerRecord, at_ms: int, since_s: float, *, is_ready: bool
    ) -> None:
        self.record, self.size, self.at_ms, self.since_s = record, record.size, at_ms, since_s
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.is_ready = is_ready  # else its payload is being checked in, or it is being weighed
        self.is_handed = False  # to the connection: from then on it may be in the log
        self.most = 0  # records of its batch, 0 for as many as fit
        self.queue: PartitionQueue | None = None

    def ready(self, record: ProducerRecord) -> None:
        """Have *record* leave."""
        self.record, self.is_ready = record, True
        if self.queue is not None:
            self.queue.wake()

    def is_left(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.outcome.done()

    def end(self, outcome: Outcome) -> None:
        """Tell the call, if there still is one."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


@dataclass(frozen=True, slots=True)
class BatchRoute:
    """How records leave: through which connection of now, how many bytes at once, after how long a wait, from where.

    *renew* replaces a connection after a refusal, *sent* is told how many of a topic the cluster
    has.
    """

    connected: Callable[[], Connection]
    renew: Callable[[Connection], Awaitable[None]]
    sent: Callable[[str, int], None]
    memory: BufferMemory
    batch_bytes: int
    linger_s: float


class PartitionQueue:
    """The records of one partition that wait."""

    def __init__(self, route: BatchRoute, topic: str, partition: int) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_closing = False  # nothing waits for company any more
        self._route = route
        self._at = TopicPartition(topic, partition)
        self._waiting: OrderedDict[PendingRecord, None] = OrderedDict()
        self._bytes = 0
        self._pause: asyncio.Future[None] | None = None

    def add(self, waiting: PendingRecord) -> None:
        """Have it leave behind those that are here."""
        waiting.queue = self
        self._waiting[waiting] = None
        self._bytes += waiting.size - OVERHEAD
        if self.task is None:
            # It outlives this call, so nothing of the caller's context is its own.
            self.task = asyncio.get_running_loop().create_task(
                self._run(), name="queue", context=Context()
            )
        elif self._bytes >= self._route.batch_bytes:
            self.wake()

    def wake(self) -> None:
        """Look again whether there is something to do."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    def withdraw(self, waiting: PendingRecord) -> None:
        """Forget a record that nobody waits for, if it is still here."""
        if waiting in self._waiting:
            self._take(waiting)
            self._route.memory.leave(waiting.size)
            self.wake()

    def fail(self, error: Exception) -> None:
        """Tell everybody who is here."""
        while (waiting := self._first()) is not None:
            waiting.end(error)
            self._take(waiting)
            self._route.memory.leave(waiting.size)

    async def _run(self) -> None:
        try:
            while (first := self._first()) is not None:
                if not first.is_ready:
                    await self._sleep(None)
                elif (left_s := self._linger_s(first)) > 0:
                    await self._sleep(left_s)
                else:
                    await self._send()
        except Exception as error:  # noqa: BLE001  # whoever waits is told
            self.fail(error)
        finally:
            self.task = None

    def _first(self) -> PendingRecord | None:
        return next(iter(self._waiting), None)

    def _take(self, waiting: PendingRecord) -> None:
        del self._waiting[waiting]
        self._bytes -= waiting.size - OVERHEAD

    def _linger_s(self, first: PendingRecord) -> float:
        if self.is_closing or first.most or self._bytes >= self._route.batch_bytes:
            return 0.0
        return first.since_s + self._route.linger_s - asyncio.get_running_loop().time()

    async def _sleep(self, limit_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._pause = loop.create_future()
        timer = None if limit_s is None else loop.call_later(limit_s, self.wake)
        try:
            await self._pause
        finally:
            self._pause = None
            if timer is not None:
                timer.cancel()

    # Leaving.

    async def _send(self) -> None:
        connection = self._route.connected()
        with connection.in_use():
            if not await self._may_hand_over(connection):
                return
            limit = await connection.limit(self._at.topic)
            batch, taken = self._batch(connection, limit)
            if not taken:
                return
            try:
                sent = await handed_over(connection.kafka, batch, *self._at)
                answer = await self._answered(connection, sent)
            except KafkaError as error:
                self._refused(connection, taken, error)
            except (Exception, asyncio.CancelledError) as error:
                self._end(
                    taken,
                    [Stopped() if isinstance(error, asyncio.CancelledError) else error]
                    * len(taken),
                )
                raise
            else:
                self._there(taken, answer)
                return
        await self._route.renew(connection)

    async def _may_hand_over(self, connection: Connection) -> bool:
        """Wait until the connection takes a batch at once.

        False when nobody waits for that any more.
        """
        topic, partition = self._at
        batches = connection.kafka._message_accumulator._batches
        while self._first() is not None:
            if before := batches.get(self._at):  # of somebody who sends many, or a state's
                with suppress(KafkaError):  # of its sender's
                    await before[-1].wait_drain(timeout=LOOK_S)
            elif connection.partitions_known(topic) > partition:
                return True
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(2 * MISSING_S):
                        await connection.partitions(topic, partition)
        return False

    # Aiokafka is untyped.
    def _batch(
        self, connection: Connection, limit: int | None
    ) -> tuple[Any, Sequence[PendingRecord]]:
        """Take from the front what is ready and fits into one batch."""
        size = self._route.batch_bytes if limit is None else min(self._route.batch_bytes, limit)
        batch: Any = BatchBuilder(size, connection.codec)
        taken: list[PendingRecord] = []
        most = 0
        while (first := self._first()) is not None and first.is_ready:
            if taken and most and (len(taken) >= most or not first.most):
                break
            record = first.record
            there = batch.append(
                timestamp=first.at_ms,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
            )
            if there is None:
                break
            self._take(first)
            first.is_handed = True
            most = min(filter(None, (most, first.most)), default=0)
            taken.append(first)
        return batch, taken

    async def _answered(
        self, connection: Connection, sent: "asyncio.Future[RecordMetadata]"
    ) -> RecordMetadata:
        """Wait for the answer.

        Raises UnknownTopicOrPartitionError when the topic goes away meanwhile.
        """
        loop, gone_since_s = asyncio.get_running_loop(), 0.0
        while True:
            done, _ = await asyncio.wait([sent], timeout=LOOK_S)
            if done and sent.cancelled():  # by a connection that was dropped
                raise KafkaConnectionError("the connection was closed")
            if done:
                return sent.result()
            is_gone = connection.is_gone(self._at.topic)
            gone_since_s = (gone_since_s or loop.time()) if is_gone else 0.0
            if gone_since_s and loop.time() - gone_since_s > MISSING_S:
                raise UnknownTopicOrPartitionError(self._at.topic)

    def _there(self, taken: Sequence[PendingRecord], answer: RecordMetadata) -> None:
        topic, partition = self._at
        # The broker says a time only if it stamps the topic.
        is_ours, offset = answer.timestamp < 0, answer.offset
        self._route.sent(topic, len(taken))
        self._end(
            taken,
            [
                Published(
                    topic,
                    partition,
                    offset + number,
                    waiting.at_ms if is_ours else answer.timestamp,
                )
                for number, waiting in enumerate(taken)
            ],
        )

    def _refused(
        self, connection: Connection, taken: Sequence[PendingRecord], error: KafkaError
    ) -> None:
        """Tell whose records were refused.

        Where one may have spoilt it for the others, halves are sent again.
        """
        if isinstance(error, MessageSizeTooLargeError):
            connection.forget_limits()
        if len(taken) == 1 or not isinstance(error, BY_ONE):
            self._end(taken, [error] * len(taken))
            return
        for waiting in reversed(taken):
            waiting.is_handed, waiting.most = False, len(taken) // 2
            if waiting.is_left():
                self._route.memory.leave(waiting.size)
                continue
            self._waiting[waiting] = None
            self._waiting.move_to_end(waiting, last=False)
            self._bytes += waiting.size - OVERHEAD

    def _end(self, taken: Sequence[PendingRecord], outcomes: Sequence[Outcome]) -> None:
        size = 0
        for waiting, outcome in zip(taken, outcomes, strict=True):
            waiting.end(outcome)
            size += waiting.size
        self._route.memory.leave(size)
