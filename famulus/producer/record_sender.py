"""Send records unchanged through a connection that is replaced after a refusal."""

import asyncio
import gc
from collections import Counter, defaultdict
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Self

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, TopicAuthorizationFailedError
from aiokafka.structs import RecordMetadata, TopicPartition

from famulus.config import KafkaConfig
from famulus.errors import UnavailableError
from famulus.kafka.admin import not_allowed
from famulus.kafka.leader_epochs import UNKNOWN, epoch_ends
from famulus.kafka.partitioner import chooser
from famulus.kafka.topic_ids import Topics, topics_of
from famulus.observability.log_rate import calm_libraries
from famulus.observability.logs import described
from famulus.producer.batched_send import BatchedSend, check_size, check_topic
from famulus.producer.batches import one_batch
from famulus.producer.connection import STOP_S, Connection, explained
from famulus.producer.results import Found, Published, PublishError, TooLarge, in_words
from famulus.serialization.records import Headers, ProducerRecord

log = structlog.get_logger()
SMALL_BYTES = 8 * 1024  # what any topic takes


class RecordSender:
    """Sends records through a connection made from *settings* at the start.

    *sent* counts the records sent, by topic, without those of state changelogs. Raises ConfigError
    when the partitioner that the settings name does not exist.
    """

    def __init__(self, settings: KafkaConfig) -> None:
        self.settings = settings
        self._choose = chooser(settings.producer_config.partitioner)
        self._connection: Connection | None = None
        self.sent: Counter[str] = Counter()
        self._leaving: set[asyncio.Task[None]] = set()  # connections that were replaced

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect.

        Raises UnavailableError when no broker answers, AccessError when a broker refuses the
        connection.
        """
        calm_libraries()  # after aiokafka's loggers exist; in a script nothing else does this
        if without_effect := explained(self.settings.producer_config):
            log.info("settings that have no effect as they are", why="; ".join(without_effect))
        await self._connect()
        spare_collector()

    async def _connect(self) -> None:
        connection = Connection(self.settings)
        await connection.start()
        self._connection = connection

    async def stop(self) -> None:
        """Disconnect.

        Buffered records that Kafka does not take are dropped after STOP_S seconds.
        """
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.stop()
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=STOP_S)
            for leaving in late:
                leaving.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def renew(self) -> None:
        """Replace the connection, to get a new producer id.

        After a batch was refused, the sequence numbers of the old id do not fit any more. Records
        that the old connection has buffered are still sent by it. The old connection stays while no
        broker answers, and the next call that sends gets an error. Raises AccessError when a broker
        refuses the new connection.
        """
        old = self._connection
        if old is None:
            return
        try:
            await self._connect()
        except UnavailableError:
            return
        leaving = asyncio.create_task(
            old.leave(self.settings.producer_config.delivery_timeout_ms / 1000), name="old producer"
        )
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    @property
    def is_connected(self) -> bool:
        """Return whether it was started, and not stopped since."""
        return self._connection is not None

    def connected(self) -> Connection:
        """Return the present connection.

        Raises PublishError when there is none.
        """
        if self._connection is None:
            raise PublishError(
                "the producer is not connected: use `async with Producer() as producer`"
            )
        return self._connection

    def choose(self, record: ProducerRecord, count: int) -> int:
        """Return a partition, out of *count*, for a record that names none.

        Raises ConfigError when a custom partitioner fails or returns no such partition.
        """
        chosen = self._choose(record.key, count) if record.key is not None else None
        return self.connected().any_partition(record.topic) if chosen is None else chosen

    async def send_all(self, records: Sequence[ProducerRecord]) -> list[Published]:
        """Send *records* in order per partition, and return their positions.

        Their topics are named as on the cluster. Waits for the answer to every record. Raises what
        aiokafka raises, and TimeoutError after `ProducerConfig.DeliveryTimeoutMs`. When a record is
        too large or a topic does not exist, nothing was sent.
        """
        sending = self._sending(records)
        await self._send(sending)
        return [place for place in sending.published() if place is not None]

    async def hand_over(self, records: Sequence[ProducerRecord]) -> None:
        """Send *records* as `send_all` does, but do not compute their positions (faster)."""
        await self._send(self._sending(records))

    def _sending(self, records: Sequence[ProducerRecord]) -> BatchedSend:
        config = self.settings.producer_config
        return BatchedSend(
            self.connected(), records, self._choose, config.batch_size, config.max_request_size
        )

    async def _send(self, sending: BatchedSend) -> None:
        with sending.connection.in_use():
            async with asyncio.timeout(self.settings.producer_config.delivery_timeout_ms / 1000):
                try:
                    await sending.run()
                except MessageSizeTooLargeError as error:
                    if not isinstance(error, TooLarge):
                        self.connected().forget_limits()
                    raise
        self.sent.update(record.topic for record in sending.records)

    async def send_batch(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        headers: Headers,
    ) -> Awaitable[int]:
        """Send *rows* to one partition as one record batch.

        Kafka appends the batch whole or not at all; state changelogs are written this way. Returns
        when the batch is on its way. The result, awaited, is the offset of its first record, -1
        when the cluster does not report it. Raises AssertionError when the rows do not fit (a bug),
        what aiokafka raises, and TimeoutError after `ProducerConfig.DeliveryTimeoutMs`: the batch
        may have been written nevertheless.
        """
        limit_s = self.settings.producer_config.delivery_timeout_ms / 1000
        connection = self.connected()
        with connection.in_use():
            async with asyncio.timeout(limit_s):
                sent = await one_batch(connection.kafka, topic, partition, rows, headers)
        return _offset_of(sent, limit_s)

    async def topics(self, names: Collection[str]) -> Topics:
        """Return ids, partitions and leaders of the topics *names*, as they are now.

        Names are those on the cluster. Missing topics are left out, and never created. Raises
        UnavailableError when no broker answers within `ProducerConfig.DeliveryTimeoutMs`, and
        AccessError.
        """
        limit_s = self.settings.producer_config.delivery_timeout_ms / 1000
        connection = self.connected()
        try:
            with connection.in_use():
                return await topics_of(connection.kafka.client, names, limit_s)
        except TopicAuthorizationFailedError as error:
            raise not_allowed(f"look at topic {error}") from error
        except TimeoutError:
            raise UnavailableError(
                f"no Kafka broker at {self.settings.bootstrap_servers} says within {limit_s:g} "
                "s what the topics are"
            ) from None

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int], topics: Topics
    ) -> dict[TopicPartition, int]:
        """Return the end offsets of these leader epochs, as the leaders report them.

        The end offset of an epoch is where its records, and those of earlier epochs, end. The
        leaders are those in *topics*. A partition whose leader is unknown or does not answer is
        left out.
        """
        asked: defaultdict[int, dict[TopicPartition, int]] = defaultdict(dict)
        for at, epoch in epochs.items():
            leader, _ = topics.of[at.topic].leaders.get(at.partition, (UNKNOWN, UNKNOWN))
            if leader != UNKNOWN:
                asked[leader][at] = epoch
        found: dict[TopicPartition, int] = {}
        connection = self.connected()
        with connection.in_use():
            for leader, of in asked.items():
                try:
                    found |= await epoch_ends(connection.kafka.client, leader, of)
                except KafkaError as error:
                    log.warning(
                        "a broker does not tell where leader epochs end",
                        node=leader,
                        error=described(error),
                    )
        return found

    # Checks before sending, and errors.

    async def check(self, record: ProducerRecord) -> None:
        """Raise RecordTooLargeError when *record* could never be sent.

        Its topic is named as on the cluster. For records that are sent later, when no caller is
        left to get the error.
        """
        try:
            size = check_size(record, self.settings.producer_config.max_request_size)
            if size > SMALL_BYTES and self._connection is not None:
                topic_limit = await self._connection.limit(record.topic)
                if topic_limit is not None and size > topic_limit:
                    await check_topic(self._connection, record, topic_limit)
        except TooLarge as error:
            raise self.to_publish_error(error, record.topic, [], is_open=False) from None

    async def check_place(self, topic: str, partition: int) -> None:
        """Raise UnknownTopicError when *topic* has no such *partition*.

        *topic* is named as on the cluster. For topics that other clients name: such a topic is
        never created. Raises NotAuthorizedError, too. Without a connection nothing is checked,
        because a dry run sends nothing.
        """
        if self._connection is None:
            return
        try:
            await self._connection.find(topic, partition)
        except KafkaError as error:
            raise self.to_publish_error(error, topic, [], is_open=False) from error

    async def counts(self, topics: Collection[str]) -> dict[str, int] | None:
        """Return the number of partitions of each of *topics*, 0 for a missing one.

        *topics* are named as on the cluster. A topic for which the cluster reports another error is
        left out. Returns None when no broker answers, or when this client may not describe the
        topics.
        """
        if self._connection is None:
            return None
        with suppress(TopicAuthorizationFailedError):
            return await self._connection.counts(topics)
        return None

    def to_publish_error(
        self, error: Exception, topic: str, published: Sequence[Published | None], *, is_open: bool
    ) -> PublishError:
        """Return the PublishError for an error of aiokafka, see `results.in_words`.

        *is_open* means that some of the records may be sent nevertheless.
        """
        found = Found(
            partitions=self._connection.partitions_known(topic)
            if self._connection is not None
            else 0,
            limit_ms=self.settings.producer_config.delivery_timeout_ms,
            is_open=is_open,
        )
        return in_words(error, topic, published, found)


async def _offset_of(sent: "asyncio.Future[RecordMetadata | None]", limit_s: float) -> int:
    async with asyncio.timeout(limit_s):
        metadata = await sent
    return -1 if metadata is None else int(metadata.offset)


@cache
def spare_collector() -> None:
    """Exclude all present objects from garbage collection, once in a process.

    Every call that publishes creates objects, and for every few thousand of them the collector
    would scan all imported modules. A worker does the same when it has started.
    """
    gc.freeze()
