"""Offset commits that end in time and skip partitions that were deleted.

aiokafka's own commit is retried forever while one of its topics does not exist. A commit is awaited
inside a rebalance, so that one deleted topic would hold up all others.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka.errors import IllegalStateError, KafkaError, UnknownTopicOrPartitionError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

AGAIN_S = 0.1  # between two attempts
LIMIT_S = 5.0  # for all attempts: a stop waits for the last commit


async def commit(
    consumer: Any,
    offsets: Mapping[TopicPartition, int],
    limit_s: float = LIMIT_S,
    note: Callable[[TopicPartition], str] = lambda _: "",
) -> set[TopicPartition]:
    """Commit *offsets* and return the partitions that the cluster does not have any more.

    *consumer* is aiokafka's. *note* returns the metadata to commit with the offset of a partition.

    Raises IllegalStateError when a partition is not assigned, and TimeoutError after *limit_s*
    seconds with the last error as its cause. A KafkaError that cannot be retried is raised
    unchanged.
    """
    subscription = consumer._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None or not offsets.keys() <= assignment.tps:
        raise IllegalStateError("partitions are not assigned any more")
    return await commit_any(consumer, offsets, limit_s, note)


async def commit_any(
    consumer: Any,
    offsets: Mapping[TopicPartition, int],
    limit_s: float = LIMIT_S,
    note: Callable[[TopicPartition], str] = lambda _: "",
) -> set[TopicPartition]:
    """Commit *offsets* as `commit` does, but without the check that they are assigned.

    The partitions may belong to other members of the group.
    """
    last: KafkaError | None = None
    try:
        async with asyncio.timeout(limit_s):
            while True:
                gone = {at for at in offsets if not _is_there(consumer, at)}
                left = {
                    at: OffsetAndMetadata(offset, note(at))
                    for at, offset in offsets.items()
                    if at not in gone
                }
                try:
                    await _commit_once(consumer._coordinator, left)
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    last = error
                else:
                    return gone
                if isinstance(last, UnknownTopicOrPartitionError):
                    await consumer._client.force_metadata_update()
                await asyncio.sleep(AGAIN_S)
    except TimeoutError as error:
        raise error from last


async def _commit_once(
    coordinator: Any, offsets: Mapping[TopicPartition, OffsetAndMetadata]
) -> None:
    await coordinator.ensure_coordinator_known()
    async with coordinator._commit_lock:
        # Unlike aiokafka's public commit, this call does not check the assignment.
        await asyncio.shield(coordinator._do_commit_offsets(None, offsets))


def _is_there(consumer: Any, at: TopicPartition) -> bool:
    return at.partition in (consumer._client.cluster.partitions_for_topic(at.topic) or ())
