"""How far a consumer group is behind, over all partitions of its topics."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata

from app.access.arguments import connection_of
from app.config import KafkaConfig


@dataclass(frozen=True, slots=True)
class Progress:
    """Records from the beginning of the logs: *settled* to the committed offsets, *total* to the ends."""

    settled: int
    total: int

    @property
    def lag(self) -> int:
        """Records that are not settled yet."""
        return self.total - self.settled


class LagMonitor:
    """Asks the cluster for a group's progress; works from outside of any worker. Use it as an async context manager."""

    def __init__(self, settings: KafkaConfig, group: str) -> None:
        self._group = group
        self._admin = AIOKafkaAdminClient(**connection_of(settings))
        self._consumer = AIOKafkaConsumer(**connection_of(settings), enable_auto_commit=False)

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
            await self._consumer.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def progress(self, topics: Iterable[str]) -> dict[str, Progress]:
        """The group's progress by topic. A partition without a commit counts from the beginning of its log."""
        described = await self._admin.describe_topics(list(topics))
        partitions = {
            topic["topic"]: [TopicPartition(topic["topic"], p["partition"]) for p in topic["partitions"]]
            for topic in described
        }
        every = [tp for tps in partitions.values() for tp in tps]
        begins = await self._consumer.beginning_offsets(every)
        ends = await self._consumer.end_offsets(every)
        committed = await self._committed(every)
        settled = {tp: max(at.offset, begins[tp]) if (at := committed.get(tp)) else begins[tp] for tp in every}
        return {
            topic: Progress(
                settled=sum(settled[tp] - begins[tp] for tp in tps), total=sum(ends[tp] - begins[tp] for tp in tps)
            )
            for topic, tps in partitions.items()
        }

    async def _committed(self, every: list[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """What the group has committed: nothing in a cluster that no group has joined yet."""
        try:
            committed: dict[TopicPartition, OffsetAndMetadata] = await self._admin.list_consumer_group_offsets(
                self._group, partitions=every
            )
        except GroupCoordinatorNotAvailableError:
            return {}
        return committed
