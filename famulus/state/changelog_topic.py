"""Read a changelog without a consumer group, and claim one of its partitions."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition

from famulus.errors import OperatingError
from famulus.kafka.log_reader import read_to
from famulus.kafka.stray_counts import strays
from famulus.kafka.topic_ids import Topics
from famulus.serialization.records import Headers
from famulus.state.changelog import CLAIM, Logged, OwnershipClaim, encode, epoch_headers
from famulus.wall_clock import wall_ms


class Sender(Protocol):
    """The part of `producer.record_sender.RecordSender` that state needs; it is injected."""

    async def send_batch(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        headers: Headers,
    ) -> Awaitable[int]:
        """Send *rows* as one record batch.

        The awaitable returned gives the offset of the first record, -1 when the broker did not
        report it.
        """

    async def topics(self, names: Collection[str]) -> Topics:
        """Return the ids, partitions and leaders that these topic names stand for now."""

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int], topics: Topics
    ) -> dict[TopicPartition, int]:
        """Return the end offsets of these leader epochs.

        The end offset of an epoch is where its records, and those of earlier epochs, end. A
        partition whose leader does not report it is left out.
        """


class Reader(Protocol):
    """The part of `LogReader` that a checkpointer needs."""

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """Return the records of a partition from *start* to its end."""


class LogReader:
    """Reads changelogs without a consumer group.

    *new_consumer* makes an aiokafka consumer without an assignment.
    """

    def __init__(self, new_consumer: Callable[[], AIOKafkaConsumer]) -> None:
        self._new_consumer = new_consumer

    @asynccontextmanager
    async def consumer(self, places: Iterable[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
        """Provide a started consumer that is assigned to *places*."""
        consumer = self._new_consumer()
        await consumer.start()
        try:
            consumer.assign(list(places))
            yield consumer
        finally:
            await consumer.stop()

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """Return the records of a partition from *start* to its current end."""
        place = TopicPartition(topic, partition)
        async with self.consumer([place]) as consumer:
            end = (await consumer.end_offsets([place]))[place]
            consumer.seek(place, start)
            found: list[Logged] = []
            async for _, records in read_to(
                consumer, {place: end}, skipped=strays.skipped("state")
            ):
                found += records
            return found


def worker_name() -> str:
    """Return host and process id, which name this process for people in claims."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def append_claim(sender: Sender, topic: str, partition: int, epoch: int) -> tuple[str, int]:
    """Append a claim of this process and return its owner id and its offset.

    Raises OperatingError when the broker did not report the offset, and what the sender raises.
    """
    claim = OwnershipClaim(epoch, uuid4().hex, worker_name(), wall_ms())
    offset = await (
        await sender.send_batch(topic, partition, [(CLAIM, encode(claim))], epoch_headers(epoch))
    )
    if offset < 0:
        raise OperatingError(f"the cluster does not say where a claim for {topic} is; start again")
    return claim.owner, offset
