"""Reading a partition without a group: opened, followed by a task, closed."""

import asyncio
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.access.arguments import connection_of
from app.config import KafkaConfig


def log_consumer(settings: KafkaConfig, fetch_max_wait_ms: int = 100) -> AIOKafkaConsumer:
    """A consumer without a group, for reading logs from their beginnings. A fetch without data waits so long."""
    return AIOKafkaConsumer(
        **connection_of(settings), group_id=None, enable_auto_commit=False,
        auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 2**20, fetch_max_wait_ms=fetch_max_wait_ms,
    )  # fmt: skip


async def opened(
    settings: KafkaConfig, at: TopicPartition, fetch_max_wait_ms: int = 500, *, from_end: bool = False
) -> AIOKafkaConsumer:
    """One that has begun to read *at*, from its beginning or its end. Raises what aiokafka raises."""
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


async def closed(task: asyncio.Task[Any] | None, consumer: AIOKafkaConsumer | None) -> None:
    """End the *task* that follows, and what it reads with."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    if consumer is not None:
        await consumer.stop()
