"""Connection of a producer: the aiokafka client, topic metadata, and a shutdown with a time limit.

The aiokafka producer is always idempotent here, with acks from all in-sync replicas. One that is
not idempotent reports batches as failed that are in the log nevertheless. aiokafka has no option
for some settings of other Kafka clients; `explained` says what happens to them.
"""

import asyncio
import math
import random
import time
from collections.abc import Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.admin import DescribeConfigsRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from famulus.config import KafkaConfig, ProducerConfig
from famulus.errors import UnavailableError
from famulus.kafka.client import client_options
from famulus.kafka.connection_diagnosis import why_refused
from famulus.serialization.records import Headers

# A topic counts as missing when the cluster reports this for so long: it may be new.
MISSING_S = 3.0
METADATA_S = 0.05
# The same for a reply topic that a request names. Shorter, because its sender has created it
# already, and other events wait meanwhile.
GRACE_S = 0.3
# Missing reply topics are remembered, and get no such grace period again meanwhile.
REMEMBERED_S, REMEMBERED_MAX = 30.0, 1_000
STOP_S = 5.0  # records that were not taken by then are dropped
DROP_S, DROP_TRIES = 1.0, 5  # wait before a task of aiokafka is cancelled again; how often
ASK_S = 2.0
ASK_AGAIN_S = 60.0
TOPIC = 2  # the resource type of topics


async def _insist(closing: Coroutine[Any, Any, None]) -> None:
    """Await *closing*, and cancel it again while it hangs, DROP_TRIES times at most.

    *closing* waits for tasks that it has cancelled. These tasks use Python's `wait_for`, which can
    lose a cancellation when the awaited task ends at the same moment (CPython #86296). This happens
    often when no broker answers.
    """
    task = asyncio.ensure_future(closing)
    for _ in range(DROP_TRIES):
        done, _ = await asyncio.wait({task}, timeout=DROP_S)
        if done:
            break
        task.cancel()  # this also cancels the task that it awaits
    if task.done() and not task.cancelled():
        with suppress(KafkaError):
            task.result()


class Connection:
    """An aiokafka producer made from *settings*, with cached facts about topics."""

    def __init__(self, settings: KafkaConfig) -> None:
        config = settings.producer_config
        self._settings = settings
        self.kafka: Any = AIOKafkaProducer(  # Any: aiokafka is untyped
            **client_options(settings),
            acks="all",
            enable_idempotence=True,
            compression_type=None if config.compression_type == "none" else config.compression_type,
            linger_ms=config.linger_ms,
            max_batch_size=config.batch_size,
            max_request_size=config.max_request_size,
        )
        self._asking = asyncio.Lock()
        # By topic: the monotonic time of the request, and the limit in bytes.
        self._limits: dict[str, tuple[float, int | None]] = {}
        # By topic that a request names: when it was last found missing, the oldest first.
        self._missing: dict[str, float] = {}
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    async def start(self) -> None:
        """Connect.

        Raises UnavailableError when no broker answers, AccessError when a broker refuses the
        connection.
        """
        try:
            await self.kafka.start()
        except KafkaConnectionError as error:
            await self.kafka.stop()
            if (refused := await why_refused(self._settings)) is not None:
                raise refused from error
            raise UnavailableError(
                f"no Kafka broker answers at {self._settings.bootstrap_servers}"
            ) from error

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Mark the connection as used inside the block; `leave` waits for its end."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def leave(self, limit_s: float) -> None:
        """Stop the connection once no caller uses it any more.

        The caller has replaced it already. *limit_s* limits the wait and, once more, `stop`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._unused.wait()
        await self.stop(limit_s)

    async def stop(self, limit_s: float = STOP_S) -> None:
        """Send the buffered records and disconnect.

        Records that Kafka has not taken after *limit_s* seconds are dropped. Records are also
        dropped when this call is cancelled.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self.kafka.stop()
        except TimeoutError:
            await self._drop()
        except asyncio.CancelledError:
            await self._drop()
            raise

    async def _drop(self) -> None:
        await _insist(self.kafka.client.close())  # first, because the sender waits for answers
        await _insist(self.kafka._sender.close())

    async def partitions(self, topic: str, wanted: int = 0) -> int:
        """Return the number of partitions of *topic*.

        Raises UnknownTopicOrPartitionError when the cluster reports for MISSING_S that there is no
        partition number *wanted*, and TopicAuthorizationFailedError. Asks without a time limit
        while no broker answers.
        """
        client, missing_since = self.kafka.client, 0.0
        while True:
            numbers = client.cluster.partitions_for_topic(topic)
            if numbers is not None and wanted < len(numbers):
                return len(numbers)
            client.add_topic(topic)
            is_answered = await client.force_metadata_update()
            if topic in client.cluster.unauthorized_topics:
                raise TopicAuthorizationFailedError(topic)
            missing_since = (missing_since or time.monotonic()) if is_answered else 0.0
            if missing_since and time.monotonic() - missing_since > MISSING_S:
                if numbers is None:
                    # Otherwise every metadata request would name it, and might create it.
                    client._topics.discard(topic)
                raise UnknownTopicOrPartitionError(topic)
            await asyncio.sleep(METADATA_S)

    async def find(self, topic: str, wanted: int) -> None:
        """Check that *topic*, named by another client, has a partition number *wanted*.

        The topic is never created. Raises UnknownTopicOrPartitionError and
        TopicAuthorizationFailedError as `partitions` does, but after GRACE_S. For a topic that was
        missing less than REMEMBERED_S ago, one answer is enough.
        """
        numbers = self.kafka.client.cluster.partitions_for_topic(topic)
        if numbers is not None and wanted < len(numbers):
            return
        now = time.monotonic()
        grace_s = 0.0 if now - self._missing.get(topic, -math.inf) < REMEMBERED_S else GRACE_S
        missing_since = 0.0
        while True:
            found = await self._count(topic)
            if found is not None and wanted < found:
                self._missing.pop(topic, None)
                await self.partitions(topic, wanted)
                return
            now = time.monotonic()
            missing_since = (missing_since or now) if found is not None else 0.0
            if missing_since and now - missing_since >= grace_s:
                self._remember(topic, now)
                raise UnknownTopicOrPartitionError(topic)
            await asyncio.sleep(METADATA_S)

    async def _count(self, topic: str) -> int | None:
        """Return how many partitions the cluster reports for *topic*, never creating it.

        None means no answer. Raises TopicAuthorizationFailedError.
        """
        found = await self.counts([topic])
        return None if found is None else found.get(topic, 0)

    async def counts(self, topics: Collection[str]) -> dict[str, int] | None:
        """Return the number of partitions of each topic, 0 for a missing one.

        No topic is created. A topic for which the cluster reports another error is left out. None
        means no answer. Raises TopicAuthorizationFailedError.
        """
        client = self.kafka.client
        request = MetadataRequest(sorted(topics), allow_auto_topic_creation=False)
        try:
            async with asyncio.timeout(ASK_S):
                answer = await client.send(client.get_random_node(), request)
        except (KafkaError, TimeoutError):
            return None
        found: dict[str, int] = {}
        for code, name, _, partitions in answer.topics:
            if code == TopicAuthorizationFailedError.errno:
                raise TopicAuthorizationFailedError(name)
            if code in {0, UnknownTopicOrPartitionError.errno}:
                found[name] = len(partitions)
        return found

    def _remember(self, topic: str, now: float) -> None:
        self._missing.pop(topic, None)
        self._missing[topic] = now
        while len(self._missing) > REMEMBERED_MAX:
            del self._missing[next(iter(self._missing))]

    def is_gone(self, topic: str) -> bool:
        """Return whether *topic* is missing in the latest metadata of the cluster."""
        return self.kafka.client.cluster.partitions_for_topic(topic) is None

    def any_partition(self, topic: str) -> int:
        """Return a random partition for a record without a key.

        Partitions that have a leader are preferred.
        """
        cluster = self.kafka.client.cluster
        numbers = cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(
            topic
        )
        return int(random.choice(list(numbers)))  # no secret

    def partitions_known(self, topic: str) -> int:
        """Return the number of partitions of *topic*, 0 before its metadata was fetched."""
        return len(self.kafka.client.cluster.partitions_for_topic(topic) or ())

    # The size limit of a topic.

    async def limit(self, topic: str, *, is_new: bool = False) -> int | None:
        """Return the topic's max.message.bytes: the largest record batch, compressed.

        The cluster is asked once, or again when *is_new* is true. None when the cluster does not
        report it. A batch that is too large is then refused only by the topic itself.
        """
        if not is_new and not self._is_to_be_asked(topic):
            return self._limits[topic][1]
        async with self._asking:  # concurrent callers send one request
            if is_new or self._is_to_be_asked(topic):
                limit = await self._ask(topic)
                self._limits[topic] = (time.monotonic(), limit)
            return self._limits[topic][1]

    def _is_to_be_asked(self, topic: str) -> bool:
        asked_s, limit = self._limits.get(topic, (0.0, None))
        return not asked_s or (limit is None and time.monotonic() - asked_s > ASK_AGAIN_S)

    def forget_limits(self) -> None:
        """Forget the cached limits, because a topic refused a batch within its limit."""
        self._limits.clear()

    async def _ask(self, topic: str) -> int | None:
        client = self.kafka.client
        request = DescribeConfigsRequest([(TOPIC, topic, ["max.message.bytes"])])
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(ASK_S):
                answer = await client.send(client.get_random_node(), request)
            for code, _, _, _, entries in answer.resources:
                for name, value, *_ in entries if not code else ():
                    if name == "max.message.bytes" and value:
                        return int(value)
        return None

    def size_sent(
        self, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int
    ) -> int:
        """Return the bytes of a record in a batch of its own, compressed as configured."""
        # Any: aiokafka is untyped; the first record always fits.
        batch: Any = BatchBuilder(1, self.codec)
        batch.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers))
        return len(batch._build())

    @property
    def codec(self) -> int:
        """Return Kafka's number of the compression codec."""
        return int(self.kafka._message_accumulator._compression_type)


def size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Return an upper estimate of a record's bytes in a batch of its own, not compressed."""
    return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, list(headers)))


def explained(config: ProducerConfig) -> Sequence[str]:
    """Return a line for each setting in *config* that aiokafka has no option for."""
    found = []
    if config.retries is not None:
        found.append(
            f"Retries {config.retries}: sent again until DeliveryTimeoutMs "
            f"({config.delivery_timeout_ms}), uncounted"
        )
    if config.max_in_flight is not None:
        found.append(
            f"MaxInFlight {config.max_in_flight}: always one batch a partition, which keeps "
            "the order"
        )
    if not config.enable_idempotence:
        found.append(
            "EnableIdempotence false: always on, a record that is sent again would be there twice"
        )
    return found
