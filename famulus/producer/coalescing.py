"""Combine records that many calls send at the same time into shared batches.

Records keep the order of the calls. Waiting records are bounded by `BufferMemory`: when it is full,
further calls wait in the order of arrival.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from famulus.errors import ConfigError, OperatingError
from famulus.observability.logs import described
from famulus.producer.accumulator import LOOK_S, BatchRoute, PartitionQueue, PendingRecord, Stopped
from famulus.producer.buffer_memory import BufferMemory
from famulus.producer.connection import STOP_S, Connection
from famulus.producer.record_sender import RecordSender
from famulus.producer.results import NotAcknowledgedError, Published, PublishError
from famulus.serialization.records import ProducerRecord

log = structlog.get_logger()
SPARE = 1_000  # ended calls that may stay in the list before it is compacted
Prepare = Callable[[ProducerRecord, bool], Awaitable[ProducerRecord]]


class _Topic:
    """Waiting records of one topic.

    *queues* has them by partition. *unplaced* has those that came before the number of partitions
    was known.
    """

    def __init__(self) -> None:
        self.queues: dict[int, PartitionQueue] = {}
        self.unplaced: OrderedDict[PendingRecord, None] = OrderedDict()
        self.task: asyncio.Task[None] | None = None


class CoalescingSender:
    """Sends single records through *line*, several of them in one batch.

    *is_plain* returns whether a record can leave as it is. *prepare* is awaited for every other
    record. Its arguments are the record and whether the record is of an event, and it returns the
    record to send.
    """

    def __init__(
        self, line: RecordSender, is_plain: Callable[[ProducerRecord], bool], prepare: Prepare
    ) -> None:
        config = line.settings.producer_config
        self._line, self._is_plain, self._prepare = line, is_plain, prepare
        self._limit_s = config.delivery_timeout_ms / 1000
        self._route = BatchRoute(
            line.connected,
            self._renew,
            self._sent,
            BufferMemory(config.buffer_memory),
            config.batch_size,
            config.linger_ms / 1000,
        )
        self._topics: dict[str, _Topic] = {}
        self._renewing = asyncio.Lock()
        self._look_s = min(LOOK_S, self._limit_s / 20)
        self._open: deque[PendingRecord] = deque()  # in the order of the calls
        self._timer: asyncio.TimerHandle | None = None
        self._calls = 0  # calls that have not returned
        self._idle = asyncio.Event()  # set when the last call returns
        self._is_stopping = False

    async def send(
        self,
        topic: str,
        is_event: bool,  # by position, to save time
        make: Callable[..., ProducerRecord],
        *args: Any,
    ) -> Published:
        """Send the record that *make* returns for *args*, and wait for its position.

        *topic* is the name on the cluster. The order of records is that of the calls. The record is
        made once there is room for it in the buffer. A call that is cancelled before its batch
        leaves has sent nothing. Raises what *make* and *prepare* raise, and what `Producer.produce`
        raises.
        """
        self._line.connected()
        if self._is_stopping:
            raise PublishError("the producer is being stopped: nothing more is sent through it")
        waiting: PendingRecord | None = None
        self._calls += 1
        try:
            if not self._route.memory.enter_now():
                await self._find_room()
            waiting = self._entered(make, args)
            if not waiting.is_ready:
                async with asyncio.timeout(self._limit_s):
                    waiting.ready(await self._prepare(waiting.record, is_event))
            outcome = await waiting.outcome
        except Stopped:  # raised while the call waited for room
            raise _stopped(topic, may_be_sent=False) from None
        except TimeoutError as error:
            raise self._line.to_publish_error(error, topic, [], is_open=False) from error
        finally:
            self._done(waiting)
        if isinstance(outcome, Published):
            return outcome
        raise self._to_publish_error(waiting, outcome) from outcome

    def _to_publish_error(self, waiting: PendingRecord, outcome: Exception) -> Exception:
        """Return the exception that the call raises for *outcome*."""
        topic = waiting.record.topic
        if isinstance(outcome, Stopped):
            return _stopped(topic, may_be_sent=waiting.is_handed)
        if isinstance(outcome, (KafkaError, TimeoutError)):
            is_open = isinstance(outcome, TimeoutError) and waiting.is_handed
            return self._line.to_publish_error(outcome, topic, [], is_open=is_open)
        return outcome

    async def _find_room(self) -> None:
        async with asyncio.timeout(self._limit_s):
            await self._route.memory.enter()

    def _look_for_late(self) -> None:
        """End the calls that have waited longer than `DeliveryTimeoutMs`.

        One timer serves all calls, because a timer for each would cost too much.
        """
        loop, open_since = asyncio.get_running_loop(), self._open
        late_s = loop.time() - self._limit_s
        while open_since and (open_since[0].is_left() or open_since[0].since_s <= late_s):
            open_since.popleft().end(TimeoutError())
        self._timer = loop.call_later(self._look_s, self._look_for_late) if open_since else None

    def _done(self, waiting: PendingRecord | None) -> None:
        """Clean up after a call.

        A record that was handed over to the connection cannot be withdrawn any more.
        """
        if waiting is not None:
            waiting.outcome.cancel()
            if not waiting.is_handed:
                self._withdraw(waiting)
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    async def stop(self, limit_s: float = STOP_S) -> None:
        """Send the waiting records at once and wait for their answers.

        Calls that have no answer after *limit_s* seconds raise NotAcknowledgedError.
        """
        self._is_stopping = True
        self._idle.clear()
        for topic in self._topics.values():
            for queue in topic.queues.values():
                queue.is_closing = True
                queue.wake()
        try:
            async with asyncio.timeout(limit_s):
                if self._calls:
                    await self._idle.wait()
        except TimeoutError:
            pass
        finally:
            await self._end()

    async def _end(self) -> None:
        error = Stopped()
        self._route.memory.shut(error)
        tasks: list[asyncio.Task[None]] = []
        for topic in self._topics.values():
            self._fail_unplaced(topic, error)
            for queue in topic.queues.values():
                queue.fail(error)
            tasks += [] if topic.task is None else [topic.task]
            tasks += [queue.task for queue in topic.queues.values() if queue.task is not None]
        self._topics.clear()
        self._open.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._is_stopping = False

    def _entered(self, make: Callable[..., ProducerRecord], args: tuple[Any, ...]) -> PendingRecord:
        """Make the record and queue it; its room was granted before."""
        loop, room, size = asyncio.get_running_loop(), self._route.memory, 0
        try:
            record = make(*args)
            is_plain = self._is_plain(record)
            at_ms = (
                time.time_ns() // 1_000_000 if record.timestamp_ms is None else record.timestamp_ms
            )
            waiting = PendingRecord(record, at_ms, loop.time(), is_ready=is_plain)
            size = waiting.size
        finally:
            room.take(size)
        try:
            self._place(waiting)
        except BaseException:
            room.leave(size)
            raise
        self._open.append(waiting)
        # One slow call at the front keeps ended calls behind it in the list.
        if len(self._open) > 2 * self._calls + SPARE:
            self._open = deque(each for each in self._open if not each.is_left())
        if self._timer is None:
            self._timer = loop.call_later(self._look_s, self._look_for_late)
        return waiting

    def _withdraw(self, waiting: PendingRecord) -> None:
        """Remove a record that has not left and for which no call waits."""
        topic = self._topics.get(waiting.record.topic)
        if waiting.queue is not None:
            waiting.queue.withdraw(waiting)
        elif topic is not None and waiting in topic.unplaced:
            del topic.unplaced[waiting]
            self._route.memory.leave(waiting.size)

    def _place(self, waiting: PendingRecord) -> None:
        name = waiting.record.topic
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic()
        if topic.unplaced or not self._placed(topic, waiting):
            topic.unplaced[waiting] = None
            if topic.task is None:
                topic.task = asyncio.get_running_loop().create_task(
                    self._find(name, topic), name="find a topic", context=Context()
                )

    def _placed(self, topic: _Topic, waiting: PendingRecord) -> bool:
        """Queue a record for its partition; return False if partitions are unknown yet."""
        connection, record = self._line.connected(), waiting.record
        count = connection.partitions_known(record.topic)
        if not count:
            return False
        partition = (
            record.partition if record.partition is not None else self._line.choose(record, count)
        )
        queue = topic.queues.get(partition)
        if queue is None:
            queue = topic.queues[partition] = PartitionQueue(self._route, record.topic, partition)
            queue.is_closing = self._is_stopping
        queue.add(waiting)
        return True

    async def _find(self, name: str, topic: _Topic) -> None:
        """Look up how many partitions a topic has, and queue its unplaced records in order."""
        try:
            while topic.unplaced:
                connection = self._line.connected()
                with connection.in_use():
                    try:
                        async with asyncio.timeout(self._limit_s):
                            await connection.partitions(name)
                    except TimeoutError:
                        pass  # `_look_for_late` ends the calls that have waited too long
                for waiting in [*topic.unplaced]:
                    try:
                        if not self._placed(topic, waiting):
                            break
                    except ConfigError as error:  # of the partitioner
                        waiting.end(error)
                        self._route.memory.leave(waiting.size)
                    del topic.unplaced[waiting]
        except Exception as error:  # passed to the waiting calls
            if not topic.queues:
                self._topics.pop(name, None)
            self._fail_unplaced(topic, error)
        finally:
            topic.task = None

    def _fail_unplaced(self, topic: _Topic, error: Exception) -> None:
        while topic.unplaced:
            waiting, _ = topic.unplaced.popitem(last=False)
            waiting.end(error)
            self._route.memory.leave(waiting.size)

    def _sent(self, topic: str, count: int) -> None:
        self._line.sent[topic] += count

    async def _renew(self, old: Connection) -> None:
        """Replace the connection *old*, once for all batches that it refused."""
        async with self._renewing:
            if not self._is_stopping and self._line.connected() is old:
                try:
                    await self._line.renew()
                except OperatingError as error:  # the next call that sends gets an error
                    log.warning("no new connection for the producer", why=described(error))


def _stopped(topic: str, *, may_be_sent: bool) -> NotAcknowledgedError:
    so = "it may have been sent" if may_be_sent else "nothing of it was sent"
    words = f"the producer was stopped before a record for {topic} had its answer; {so}"
    return NotAcknowledgedError(words, may_be_sent=may_be_sent)
