"""The changelog as a log in Kafka: how it is read from outside of any group, and how a partition of it is claimed."""

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition

from famulus.errors import OperatingError
from famulus.kafka.log_reader import poll
from famulus.kafka.stray_counts import strays
from famulus.kafka.topic_ids import Topics
from famulus.serialization.records import Headers
from famulus.state.changelog import CLAIM, Logged, OwnershipClaim, encode, epoch_headers
from famulus.wall_clock import wall_ms

POLL_MS = 200


class Sender(Protocol):
    """The way to Kafka, injected: `publish.producer.Producer` has this shape."""

    async def send_batch(
        self,
        topic: str,
        partition: int,
        rows: Iterable[tuple[bytes, bytes | None]],
        headers: Headers,
    ) -> Awaitable[int]:
        """Send *rows* as one record batch.

        The result gives the offset of the first one, -1 when it is not told.
        """

    async def topics(self, names: Collection[str]) -> Topics:
        """What these names stand for now."""

    async def epoch_ends(
        self, epochs: Mapping[TopicPartition, int], topics: Topics
    ) -> dict[TopicPartition, int]:
        """Where the records of these leader epochs, and of earlier ones, end.

        Left out where nobody tells.
        """


class Reader(Protocol):
    """The way back, as far as a settler needs it: `LogReader` has this shape."""

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """What a partition has from *start* to its end."""


class LogReader:
    """Reads changelogs from outside of any group.

    *new_consumer* makes an unassigned aiokafka consumer.
    """

    def __init__(self, new_consumer: Callable[[], AIOKafkaConsumer]) -> None:
        self._new_consumer = new_consumer

    @asynccontextmanager
    async def consumer(self, places: Iterable[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer assigned to *places*."""
        consumer = self._new_consumer()
        await consumer.start()
        try:
            consumer.assign(list(places))
            yield consumer
        finally:
            await consumer.stop()

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """What a partition has from *start* to its present end."""
        place = TopicPartition(topic, partition)
        async with self.consumer([place]) as consumer:
            end = (await consumer.end_offsets([place]))[place]
            consumer.seek(place, start)
            found: list[Logged] = []
            while await consumer.position(place) < end:
                polled = await poll(
                    consumer, place, timeout_ms=POLL_MS, skipped=strays.skipped("state")
                )
                for records in polled.values():
                    found += records
            return found


def worker_name() -> str:
    """Name this process for people, as claims do: its host and its process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def append_claim(sender: Sender, topic: str, partition: int, epoch: int) -> tuple[str, int]:
    """Append a claim of this process; returns its owner's id and its offset.

    Raises what the sender raises.
    """
    claim = OwnershipClaim(epoch, uuid4().hex, worker_name(), wall_ms())
    offset = await (
        await sender.send_batch(topic, partition, [(CLAIM, encode(claim))], epoch_headers(epoch))
    )
    if offset < 0:
        raise OperatingError(f"the cluster does not say where a claim for {topic} is; start again")
    return claim.owner, offset
