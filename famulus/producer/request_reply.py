"""Send requests, read the reply topic, and match replies to waiting requests.

The consumer belongs to no consumer group. A process makes ids whose replies fall into one partition
of the topic, and reads that partition from its end. A request with an id given by the caller may be
a repetition. A separate consumer reads its partition from the beginning, so that the first reply is
found for as long as the topic keeps it.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from faust import Record as Event

from famulus.config import KafkaConfig
from famulus.errors import DecodeError, UnavailableError
from famulus.formatting import short
from famulus.kafka.admin import create_topics, partitions_of
from famulus.kafka.log_reader import closed, poll
from famulus.kafka.stray_counts import strays
from famulus.observability.logs import described
from famulus.producer.reply_headers import (
    ReplyTo,
    RequestTimeoutError,
    TooManyRequestsError,
    id_for,
    partition_of,
    replies_topic,
)
from famulus.producer.reply_reader import ReplyReader, answered, reader
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import Headers, event_type_of

E = TypeVar("E", bound=Event)
Send = Callable[[Headers], Awaitable[None]]
log = structlog.get_logger()
PARTITIONS_MAX = 16  # of a reply topic that is created here
PREPARE_S = 10.0
AGAIN_S = 1.0  # between two tries when Kafka is unavailable
POLL_MS = 1_000
NAME_MAX = 200  # characters of a reply's type name that an error quotes
LATE_MAX = 10_000  # timed-out requests whose replies are still recognised as late


class ReplyRouter:
    """Passes replies to the requests that wait for them.

    Starts with the first request, and ends with `stop`. *late* counts the replies that came after
    their requests had timed out.
    """

    def __init__(self, settings: KafkaConfig) -> None:
        self.topic = replies_topic(settings.consumer_config.group_id)
        self.late = 0
        self._settings = settings
        self._partitions = 0
        self._own = 0  # the partition that this process reads
        self._open = 0
        self._waiting: dict[bytes, asyncio.Future[ConsumerRecord]] = {}
        self._timed_out: dict[bytes, None] = {}  # in the order of their time-outs
        self._starting = asyncio.Lock()
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Count a request as open inside the block.

        Raises TooManyRequestsError. The first one also starts the consumer, and raises
        UnavailableError or ConfigError.
        """
        limit = self._settings.replies.open_max
        if self._open >= limit:
            raise TooManyRequestsError(
                f"{limit} requests wait for replies (Kafka.Replies.OpenMax): ask again later"
            )
        self._open += 1
        try:
            await self._start()
            yield
        finally:
            self._open -= 1

    def new_id(self) -> str:
        """Return an id for a request of this process."""
        return id_for(self._own, self._partitions, lambda: str(uuid4()))

    def place(self, request_id: str) -> ReplyTo:
        """Return the destination of the reply to *request_id*."""
        return ReplyTo(self.topic, partition_of(request_id, self._partitions))

    @asynccontextmanager
    async def waiting(self, request_id: str) -> AsyncIterator["asyncio.Future[ConsumerRecord]"]:
        """Yield a future of the reply to an id that `new_id` made.

        The reply is awaited from now until the block ends.
        """
        key = request_id.encode()
        future = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            yield future
        finally:
            del self._waiting[key]
            if not future.done() or future.cancelled():
                self._timed_out[key] = None
                while len(self._timed_out) > LATE_MAX:
                    del self._timed_out[next(iter(self._timed_out))]

    @asynccontextmanager
    async def reading_back(self, request_id: str) -> AsyncIterator[ReplyReader]:
        """Yield a reader for the reply to an id that may have been used before.

        Raises UnavailableError when the topic cannot be read.
        """
        at = TopicPartition(*self.place(request_id))
        consumer = await reader(self._settings, at, is_new=False)
        try:
            yield ReplyReader(consumer, at, request_id.encode())
        except KafkaError as error:
            raise UnavailableError(
                f"topic {self.topic} cannot be read: {error}; ask again"
            ) from error
        finally:
            await consumer.stop()

    async def stop(self) -> None:
        """Stop reading replies.

        Requests that still wait end by their time limits.
        """
        await closed(self._task, self._consumer)
        self._task = self._consumer = None

    async def _start(self) -> None:
        async with self._starting:  # concurrent requests make one consumer
            if self._task is not None:
                return
            settings = self._settings
            kept = {
                "retention.ms": str(round(settings.replies.retention_h * 3_600_000)),
                "cleanup.policy": "delete",
            }
            wanted = min(settings.partitions, PARTITIONS_MAX)
            await create_topics(settings, {self.topic: wanted}, PREPARE_S, kept)
            self._partitions = (await partitions_of(settings, [self.topic], PREPARE_S)).get(
                self.topic, wanted
            )
            self._own = random.randrange(self._partitions)  # no secret
            self._consumer = await reader(
                settings, TopicPartition(self.topic, self._own), is_new=True
            )
            self._task = asyncio.create_task(self._run(self._consumer), name="replies")

    async def _run(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                fetched = await poll(
                    consumer, timeout_ms=POLL_MS, skipped=strays.skipped("replies")
                )
            except Exception as error:  # requests still wait: reading must go on
                # One line, without a traceback.
                log.error(
                    "replies cannot be read",
                    topic=self.topic,
                    again_in_s=AGAIN_S,
                    why=described(error),
                )
                await asyncio.sleep(AGAIN_S)
                continue
            for records in fetched.values():
                for record in records:
                    strays.read("replies", record, self._take)

    def _take(self, record: ConsumerRecord) -> None:
        key = answered(record)
        future = self._waiting.get(key)
        if future is not None and not future.done():
            future.set_result(record)
        elif key in self._timed_out:
            del self._timed_out[key]
            self.late += 1
            log.warning(
                "a reply came too late and was dropped", request_id=key.decode(), late=self.late
            )


class PendingRequest:
    """One request and its reply.

    An empty *request_id* means that the request gets a new id when it is sent.
    """

    def __init__(self, requester: ReplyRouter, request_id: str) -> None:
        self._requester = requester
        self._is_given = bool(request_id)
        self._id = request_id
        self._is_sent = False

    async def reply(self, send: Send) -> ConsumerRecord:
        """Return the reply, sending the request first unless it has a reply already.

        *send* is called with the headers that the request must have. Raises as `ReplyRouter.slot`
        and *send* do.
        """
        async with self._requester.slot():
            if self._is_given:
                async with self._requester.reading_back(self._id) as reading:
                    earlier = await reading.earlier()
                    if earlier is not None:
                        return earlier
                    await self._send(send)
                    return await reading.later()
            self._id = self._requester.new_id()
            async with self._requester.waiting(self._id) as future:
                await self._send(send)
                return await future

    async def _send(self, send: Send) -> None:
        self._is_sent = True  # from here on it may have been sent
        identity = self._id.encode()
        place = self._requester.place(self._id)
        await send([("ce_id", identity), ("ce_correlationid", identity), *place.headers()])

    def timed_out(self, what: str, timeout_s: float) -> RequestTimeoutError:
        """Return the error for a request without a reply.

        *what* is the name of its event's class, *timeout_s* the time limit in seconds.
        """
        if not self._is_sent:
            words = (
                f"{what} was not sent within {timeout_s:g} s: the cluster may be away, or "
                "timeout_s is too short"
            )
        else:
            words = (
                f"no reply to {what} {self._id} in {timeout_s:g} s: it may still be handled; "
                "ask again with its "
                "request_id to get that reply"
            )
        return RequestTimeoutError(words, self._id)


def reply_in(record: ConsumerRecord, reply_type: type[E]) -> E:
    """Return the event in a reply.

    Raises DecodeError when the reply is not a *reply_type*.
    """
    codec = codec_of(reply_type)
    name = event_type_of(record.headers)
    if name != codec.namespace:
        raise DecodeError(
            "$", f"the reply is a {short(str(name), NAME_MAX)}, not a {codec.namespace}"
        )
    return codec.decode(record.value)
