"""Lag of a group on a topic, for code: health checks, autoscaling, tests."""

from famulus.config import KafkaConfig, load_settings
from famulus.errors import UnavailableError
from famulus.kafka.lag import GroupLagMonitor


class LagMonitor:
    """Queries for the lag of consumer groups, of this engine or of any other client.

        lag = await LagMonitor().lag("billing", "order-events")

    No worker is needed. *settings* name the cluster, `Kafka` of this app unless given; *timeout_s*
    is the limit of each query, in seconds.
    """

    def __init__(self, settings: KafkaConfig | None = None, *, timeout_s: float = 10.0) -> None:
        self._settings = settings or load_settings().kafka
        self._timeout_s = timeout_s

    async def lag(self, group: str, topic: str) -> int:
        """Return how many records of *topic* the *group* has not committed, over all partitions.

        A partition without a commit counts in full, as does a topic that the group has never read.
        Raises UnavailableError when no broker answers in time or a partition has no leader,
        ConfigError for a missing topic, AccessError for a missing right.
        """
        return sum((await self.partitions(group, topic)).values())

    async def partitions(self, group: str, topic: str) -> dict[int, int]:
        """Return the lag of each partition of *topic*. Raises as `lag` does."""
        only = self._settings.topic(topic)
        found = await GroupLagMonitor(self._settings, group, self._timeout_s, only=only).look()
        if found.unanswered:
            some = ", ".join(str(place.partition) for place in found.unanswered)
            raise UnavailableError(
                f"no leader of {only} answers for partition {some}: its lag is not known"
            )
        return {partition.place.partition: partition.look.lag for partition in found.partitions}
