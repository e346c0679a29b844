"""The connection that a producer stands on: made from the settings, asked about topics, ended in time.

aiokafka is always idempotent here, with acks from all in-sync replicas: a plain producer reports
batches as failed that are in the log all the same. It has no knob for some settings of other
clients; `explained` says what becomes of them.
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

# So long the cluster says that a topic is not there before we believe it: it may be new.
MISSING_S = 3.0
METADATA_S = 0.05
# The same for a topic that a request names: its sender has it made already, and others have to
# wait.
GRACE_S = 0.3
# Topics that were not there: they have no such time again.
REMEMBERED_S, REMEMBERED_MAX = 30.0, 1_000
STOP_S = 5.0  # what was sent in vain is left then
DROP_S, DROP_TRIES = 1.0, 5  # until a task of aiokafka's is told again to end; how often it is
ASK_S = 2.0
ASK_AGAIN_S = 60.0
TOPIC = 2  # the resource type of topics


async def _insist(closing: Coroutine[Any, Any, None]) -> None:
    """Await *closing*, which waits for tasks that it has cancelled, and cancel them again while they go on.

    Python's `wait_for`, which they use, can lose a cancellation when what it waits for ends in the
    same moment (CPython #86296); where no broker answers something of that kind ends all the time.
    """
    task = asyncio.ensure_future(closing)
    for _ in range(DROP_TRIES):
        done, _ = await asyncio.wait({task}, timeout=DROP_S)
        if done:
            break
        task.cancel()  # and with it what it waits for
    if task.done() and not task.cancelled():
        with suppress(KafkaError):
            task.result()


class Connection:
    """An aiokafka producer by our *settings*, and what the cluster says about topics."""

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
        # By topic: when it was asked for, bytes.
        self._limits: dict[str, tuple[float, int | None]] = {}
        # Topics that requests name: when they were not there, the oldest first.
        self._missing: dict[str, float] = {}
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    async def start(self) -> None:
        """Connect.

        Raises UnavailableError when no broker answers, AccessError when one does not let us in.
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
        """While something is handed over: `leave` waits for it."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def leave(self, limit_s: float) -> None:
        """Stop when nobody uses it any more; another one is there for whoever comes.

        *limit_s* as for `stop`.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._unused.wait()
        await self.stop(limit_s)

    async def stop(self, limit_s: float = STOP_S) -> None:
        """Send what is still buffered and disconnect.

        What Kafka does not take in *limit_s* is dropped.

        So it is when this is cancelled.
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
        await _insist(self.kafka.client.close())  # first: the sender waits for answers
        await _insist(self.kafka._sender.close())

    async def partitions(self, topic: str, wanted: int = 0) -> int:
        """How many partitions *topic* has.

        Raises UnknownTopicOrPartitionError when the cluster keeps saying that it has none of the
        number *wanted*, and TopicAuthorizationFailedError. A cluster that says nothing is asked
        again and again.
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
                    client._topics.discard(topic)  # else it is asked for, and maybe made, for ever
                raise UnknownTopicOrPartitionError(topic)
            await asyncio.sleep(METADATA_S)

    async def find(self, topic: str, wanted: int) -> None:
        """See that *topic*, which somebody else has named, has a partition of the number *wanted*.

        It is never made.

        Raises UnknownTopicOrPartitionError and TopicAuthorizationFailedError as `partitions` does,
        but soon: a topic that was missing a while ago is asked for once.
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
        """How many partitions the cluster says that *topic* has, without making it; None when it says nothing.

        Raises TopicAuthorizationFailedError.
        """
        found = await self.counts([topic])
        return None if found is None else found.get(topic, 0)

    async def counts(self, topics: Collection[str]) -> dict[str, int] | None:
        """How many partitions the cluster says that each of *topics* has, without making one: 0 for none.

        One that it says something else of is left out. None when it says nothing. Raises
        TopicAuthorizationFailedError.
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
        """Whether the cluster does not know *topic* any more, as far as it has said."""
        return self.kafka.client.cluster.partitions_for_topic(topic) is None

    def any_partition(self, topic: str) -> int:
        """Where a record without a key goes: a partition at random, of those that have a leader if any has."""
        cluster = self.kafka.client.cluster
        numbers = cluster.available_partitions_for_topic(topic) or cluster.partitions_for_topic(
            topic
        )
        return int(random.choice(list(numbers)))  # noqa: S311  # no secret

    def partitions_known(self, topic: str) -> int:
        """How many partitions *topic* has, 0 when nobody has asked yet."""
        return len(self.kafka.client.cluster.partitions_for_topic(topic) or ())

    # What a topic takes.

    async def limit(self, topic: str, *, is_new: bool = False) -> int | None:
        """The topic's max.message.bytes: what one record batch may have, compressed.

        Asked for once, or when *is_new*.

        None when the cluster does not say: then the topic itself refuses what is too large.
        """
        if not is_new and not self._is_to_be_asked(topic):
            return self._limits[topic][1]
        async with self._asking:  # those that come together ask once
            if is_new or self._is_to_be_asked(topic):
                limit = await self._ask(topic)
                self._limits[topic] = (time.monotonic(), limit)
            return self._limits[topic][1]

    def _is_to_be_asked(self, topic: str) -> bool:
        asked_s, limit = self._limits.get(topic, (0.0, None))
        return not asked_s or (limit is None and time.monotonic() - asked_s > ASK_AGAIN_S)

    def forget_limits(self) -> None:
        """Ask again: a topic refused what it should have taken."""
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
        """How many bytes a record is in a batch of its own, compressed as the settings say."""
        # Any: aiokafka is untyped; the first record always fits.
        batch: Any = BatchBuilder(1, self.codec)
        batch.append(timestamp=timestamp_ms, key=key, value=value, headers=list(headers))
        return len(batch._build())

    @property
    def codec(self) -> int:
        """The number of the compression."""
        return int(self.kafka._message_accumulator._compression_type)


def size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """The bytes of a record in a batch of its own, not compressed, rather more than less."""
    return int(DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, list(headers)))


def explained(config: ProducerConfig) -> Sequence[str]:
    """What becomes of settings that were set and that aiokafka has no knob for."""
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
