"""The line to the cluster: records leave as they are, through a connection that is replaced after a refusal."""

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
    """A connection by *settings*, made when it starts, and what was *sent* through it: records by topic.

    State changelogs are not counted. Raises ConfigError when the partitioner that the settings name
    is not there.
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

        Raises UnavailableError when no broker answers, AccessError when one does not let us in.
        """
        calm_libraries()  # aiokafka's are there by now; a script has nothing else that does it
        if without_effect := explained(self.settings.producer_config):
            log.info("settings that have no effect as they are", why="; ".join(without_effect))
        await self._connect()
        spare_collector()

    async def _connect(self) -> None:
        connection = Connection(self.settings)
        await connection.start()
        self._connection = connection

    async def stop(self) -> None:
        """Disconnect. What was sent in vain before is dropped after some seconds."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.stop()
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=STOP_S)
            for leaving in late:
                leaving.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def renew(self) -> None:
        """Go on with a new producer id: after a batch that was refused, the sequence numbers of the old one do not fit.

        What the old one has in hand is sent by it. While no broker answers it stays: whoever sends
        next is told. Raises AccessError when a broker does not let us in any more.
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
        """Whether it was started, and not stopped since."""
        return self._connection is not None

    def connected(self) -> Connection:
        """The connection of now. Raises PublishError when there is none."""
        if self._connection is None:
            raise PublishError(
                "the producer is not connected: use `async with Producer() as producer`"
            )
        return self._connection

    def choose(self, record: ProducerRecord, count: int) -> int:
        """The partition, of *count*, of a record that names none.

        Raises ConfigError for a wrong partitioner.
        """
        chosen = self._choose(record.key, count) if record.key is not None else None
        return self.connected().any_partition(record.topic) if chosen is None else chosen

    async def send_all(self, records: Sequence[ProducerRecord]) -> list[Published]:
        """Send *records* (their topics as on the cluster), in order per partition, and wait for every one.

        Raises what aiokafka raises, and TimeoutError after `ProducerConfig.DeliveryTimeoutMs`. When
        a record is too large, or a topic is not there, nothing was sent.
        """
        sending = self._sending(records)
        await self._send(sending)
        return [place for place in sending.published() if place is not None]

    async def hand_over(self, records: Sequence[ProducerRecord]) -> None:
        """The same for who does not ask where they stand: to say it takes a part of the time."""
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
        """Send *rows* to one partition as one record batch, which Kafka appends whole or not at all.

        Returns when the batch is on its way; the result, awaited, is the offset of its first
        record, -1 when the cluster does not tell. This is how state changelogs are written. Raises
        AssertionError when the rows do not fit (our bug), what aiokafka raises, and TimeoutError
        after `ProducerConfig.DeliveryTimeoutMs`: the batch may have been written all the same.
        """
        limit_s = self.settings.producer_config.delivery_timeout_ms / 1000
        connection = self.connected()
        with connection.in_use():
            async with asyncio.timeout(limit_s):
                sent = await one_batch(connection.kafka, topic, partition, rows, headers)
        return _offset_of(sent, limit_s)

    async def topics(self, names: Collection[str]) -> Topics:
        """What the topics *names* (as on the cluster) are now; missing ones are left out, and never made.

        Raises UnavailableError when no broker answers within `ProducerConfig.DeliveryTimeoutMs`,
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
        """Where the records of these leader epochs, and of earlier ones, end, as the leaders in *topics* say.

        Left out where nobody tells.
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

    # What could not be sent.

    async def check(self, record: ProducerRecord) -> None:
        """Raise RecordTooLargeError when *record* (its topic as on the cluster) could never be sent.

        For what is sent later: then nobody is there who could be told.
        """
        try:
            size = check_size(record, self.settings.producer_config.max_request_size)
            if size > SMALL_BYTES and self._connection is not None:
                topic_limit = await self._connection.limit(record.topic)
                if topic_limit is not None and size > topic_limit:
                    await check_topic(self._connection, record, topic_limit)
        except TooLarge as error:
            raise self.control_state(error, record.topic, [], is_open=False) from None

    async def check_place(self, topic: str, partition: int) -> None:
        """Raise UnknownTopicError when *topic* (as on the cluster) has no such partition, NotAuthorizedError.

        For topics that others name: such a topic is never made.

        As `check`, it asks nobody while there is no connection: a dry run sends nothing.
        """
        if self._connection is None:
            return
        try:
            await self._connection.find(topic, partition)
        except KafkaError as error:
            raise self.control_state(error, topic, [], is_open=False) from error

    async def counts(self, topics: Collection[str]) -> dict[str, int] | None:
        """How many partitions each of *topics* (as on the cluster) has, 0 for one that is not there.

        One that the cluster says something else of is left out. None when it says nothing now, or
        may not tell us.
        """
        if self._connection is None:
            return None
        with suppress(TopicAuthorizationFailedError):
            return await self._connection.counts(topics)
        return None

    def control_state(
        self, error: Exception, topic: str, published: Sequence[Published | None], *, is_open: bool
    ) -> PublishError:
        """What aiokafka raised in our words, see `results.in_words`.

        *is_open*: some of it may be sent all the same.
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
    """Take what is there out of the garbage collector's view, once in a process.

    Every call that publishes makes objects, and the collector goes through all imported modules for
    every few thousand of them. A worker does the same when it has started.
    """
    gc.freeze()
