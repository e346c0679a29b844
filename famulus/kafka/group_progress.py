"""Progress of a consumer group through topics that it reads from their beginnings."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import LeaderNotAvailableError

from famulus.config import KafkaConfig
from famulus.kafka.admin import admin_of
from famulus.kafka.client import client_options
from famulus.kafka.group_admin import GroupAdmin


@dataclass(frozen=True, slots=True)
class Progress:
    """Record counts from the beginnings: *settled* up to the commits, *total* up to the ends."""

    settled: int
    total: int

    @property
    def lag(self) -> int:
        """Return the number of records that are not settled yet."""
        return self.total - self.settled


class GroupProgress:
    """Queries for the progress of a group; no worker is needed.

    Use it as an async context manager.
    """

    def __init__(self, settings: KafkaConfig, group: str) -> None:
        self._admin = AIOKafkaAdminClient(**client_options(settings))
        self._asker = GroupAdmin(self._admin, group)

    async def __aenter__(self) -> Self:
        try:
            await self._admin.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.close()

    async def progress(self, topics: Iterable[str]) -> dict[str, Progress]:
        """Return the group's progress by topic.

        A partition without a commit counts from the beginning of its log. Raises what aiokafka
        raises, LeaderNotAvailableError when not every partition answers.
        """
        return await _progress(self._asker, topics)


async def unread(settings: KafkaConfig, topics: Iterable[str], timeout_s: float) -> dict[str, int]:
    """Return the lag of the group of *settings* on each of *topics* (cluster names), in records.

    Raises UnavailableError when not every partition answers within *timeout_s* seconds, AccessError
    when a right is missing.
    """
    async with admin_of(settings, timeout_s) as admin:
        found = await _progress(GroupAdmin(admin, settings.consumer_config.group_id), topics)
    return {topic: progress.lag for topic, progress in found.items()}


async def _progress(asker: GroupAdmin, topics: Iterable[str]) -> dict[str, Progress]:
    wanted, leaders = list(topics), await asker.leaders()
    places = [at for at in leaders if at.topic in wanted]
    begins, ends = await asker.offsets(places, "earliest"), await asker.offsets(places, "latest")
    if not len(places) == len(begins) == len(ends):
        raise LeaderNotAvailableError
    committed = await asker.committed()
    settled = {at: max(committed.get(at, begins[at]), begins[at]) for at in places}
    return {
        topic: Progress(
            settled=sum(settled[at] - begins[at] for at in places if at.topic == topic),
            total=sum(ends[at] - begins[at] for at in places if at.topic == topic),
        )
        for topic in wanted
    }
