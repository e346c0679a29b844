"""Records of one partition that wait to be sent as a batch.

Records leave in the order of the calls. A batch leaves when it is full, or when its first record
has waited for `LingerMs`. While an earlier batch of the partition is in flight, the next one waits
for its answer and collects records meanwhile. Nothing is handed to aiokafka before it can be sent
at once, so a call that is cancelled until then has sent nothing.
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

LOOK_S = 0.5  # interval of the checks whether a topic still exists, and for calls to time out
OVERHEAD = 75  # bytes of a record's estimated size that only the first record of a batch needs
BY_ONE = (
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    CorruptRecordException,
)
Outcome = Published | Exception


class Stopped(Exception):  # noqa: N818  # a signal, not an error
    """Outcome of a call that has no answer when the producer is stopped."""


class PendingRecord:
    """A record that waits or is in flight, and the call that waits for it."""

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
        self.is_ready = is_ready  # else its payload is being checked in, or its size checked
        self.is_handed = False  # True once handed to the connection: it may be in the log then
        self.most = 0  # maximum number of records in its batch, 0 for as many as fit
        self.queue: PartitionQueue | None = None

    def ready(self, record: ProducerRecord) -> None:
        """Mark the record as ready, with *record* as the one to send."""
        self.record, self.is_ready = record, True
        if self.queue is not None:
            self.queue.wake()

    def is_left(self) -> bool:
        """Return whether no call waits for the record any more."""
        return self.outcome.done()

    def end(self, outcome: Outcome) -> None:
        """Pass *outcome* to the call, if it still waits."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


@dataclass(frozen=True, slots=True)
class BatchRoute:
    """Connection, buffer memory and limits that the queues of all partitions share.

    *connected* returns the present connection. *renew* replaces a connection after a refusal.
    *sent* receives a topic and how many of its records the cluster has taken. *batch_bytes* is the
    size limit of a batch, *linger_s* how long its first record waits.
    """

    connected: Callable[[], Connection]
    renew: Callable[[Connection], Awaitable[None]]
    sent: Callable[[str, int], None]
    memory: BufferMemory
    batch_bytes: int
    linger_s: float


class PartitionQueue:
    """Waiting records of one partition, with the task that sends them."""

    def __init__(self, route: BatchRoute, topic: str, partition: int) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_closing = False  # True: batches leave at once, without a linger time
        self._route = route
        self._at = TopicPartition(topic, partition)
        self._waiting: OrderedDict[PendingRecord, None] = OrderedDict()
        self._bytes = 0
        self._pause: asyncio.Future[None] | None = None

    def add(self, waiting: PendingRecord) -> None:
        """Add *waiting* to the end of the queue."""
        waiting.queue = self
        self._waiting[waiting] = None
        self._bytes += waiting.size - OVERHEAD
        if self.task is None:
            # The task outlives this call, so it must not inherit the caller's context variables.
            self.task = asyncio.get_running_loop().create_task(
                self._run(), name="queue", context=Context()
            )
        elif self._bytes >= self._route.batch_bytes:
            self.wake()

    def wake(self) -> None:
        """Wake the task, so that it checks again for something to do."""
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    def withdraw(self, waiting: PendingRecord) -> None:
        """Remove a record for which no call waits any more, if it is still queued."""
        if waiting in self._waiting:
            self._take(waiting)
            self._route.memory.leave(waiting.size)
            self.wake()

    def fail(self, error: Exception) -> None:
        """End every waiting call with *error*."""
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
        except Exception as error:  # passed to the waiting calls
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
        """Wait until the connection can send a batch of the partition at once.

        Returns False when no record is left in the queue.
        """
        topic, partition = self._at
        batches = connection.kafka._message_accumulator._batches
        while self._first() is not None:
            if before := batches.get(self._at):  # of a `send_all`, or of a state changelog
                with suppress(KafkaError):  # reported to the sender of that batch
                    await before[-1].wait_drain(timeout=LOOK_S)
            elif connection.partitions_known(topic) > partition:
                return True
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(2 * MISSING_S):
                        await connection.partitions(topic, partition)
        return False

    # Any: aiokafka is untyped.
    def _batch(
        self, connection: Connection, limit: int | None
    ) -> tuple[Any, Sequence[PendingRecord]]:
        """Take ready records from the front, as many as fit into one batch."""
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
        """Return the answer to the batch.

        Raises UnknownTopicOrPartitionError when the topic disappears meanwhile,
        KafkaConnectionError when the connection is dropped.
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
        # The broker returns a timestamp only if it stamps the topic itself (LogAppendTime).
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
        """End the calls whose records were refused.

        Where a single record may be the cause for the whole batch, the records go back to the front
        of the queue and are sent again in batches of half the size.
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
