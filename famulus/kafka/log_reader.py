"""Reading a partition without a group: opened, followed by a task, closed."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from famulus.config import KafkaConfig
from famulus.kafka.client import client_options
from famulus.kafka.record_batches import TRIES, UnreadableBatchError

Skipped = Callable[[UnreadableBatchError], None]


def log_consumer(settings: KafkaConfig, fetch_max_wait_ms: int = 100) -> AIOKafkaConsumer:
    """A consumer without a group, for reading logs from their beginnings.

    A fetch without data waits so long.
    """
    return AIOKafkaConsumer(
        **client_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 2**20,
        fetch_max_wait_ms=fetch_max_wait_ms,
    )


async def opened(
    settings: KafkaConfig,
    at: TopicPartition,
    fetch_max_wait_ms: int = 500,
    *,
    from_end: bool = False,
) -> AIOKafkaConsumer:
    """One that has begun to read *at*, from its beginning or its end.

    Raises what aiokafka raises.
    """
    consumer = log_consumer(settings, fetch_max_wait_ms)
    try:
        await consumer.start()
        consumer.assign([at])
        if from_end:
            consumer.seek(at, (await consumer.end_offsets([at]))[at])
    except BaseException:
        await consumer.stop()
        raise
    return consumer


async def poll(
    consumer: AIOKafkaConsumer,
    *places: TopicPartition,
    timeout_ms: int,
    max_records: int | None = None,
    skipped: Skipped = lambda _: None,
) -> dict[TopicPartition, list[Any]]:
    """What has been fetched of *places*, of a topic of the group's own, waiting for it for *timeout_ms*.

    A batch that somebody wrote who is none of us, and that cannot be read, is skipped; *skipped* is
    told. One that is damaged is asked for again. Raises UnreadableBatchError when it stays so,
    behind the records before it.
    """
    for left in range(TRIES, -1, -1):
        try:
            found: dict[TopicPartition, list[Any]] = await consumer.getmany(
                *places, timeout_ms=timeout_ms, max_records=max_records
            )
        except UnreadableBatchError as error:
            if await consumer.position(error.place) < error.first_offset:
                max_records = 1  # what stands before it comes first
            elif error.is_stray:
                skipped(error)
                consumer.seek(error.place, error.next_offset)
            elif not (error.is_damaged and left):
                raise
        else:
            return found
    return {}


async def closed(task: asyncio.Task[Any] | None, consumer: AIOKafkaConsumer | None) -> None:
    """End the *task* that follows, and what it reads with."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    if consumer is not None:
        await consumer.stop()
