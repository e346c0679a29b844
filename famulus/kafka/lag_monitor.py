"""How far a group is behind on a topic, for code: a health check of yours, a script that scales workers, a test."""

from famulus.config import KafkaConfig, load_settings
from famulus.errors import UnavailableError
from famulus.kafka.lag import GroupLagMonitor


class LagMonitor:
    """Asks the cluster for the lag of consumer groups, whoever their members are.

    It needs no worker.

        lag = await LagMonitor().lag("billing", "order-events")

    *settings* say where the cluster is, `Kafka` of this app unless given; *timeout_s* is for each
    question, in seconds.
    """

    def __init__(self, settings: KafkaConfig | None = None, *, timeout_s: float = 10.0) -> None:
        self._settings = settings or load_settings().kafka
        self._timeout_s = timeout_s

    async def lag(self, group: str, topic: str) -> int:
        """How many records of *topic* the *group* has not committed, over all partitions.

        A partition where it has never committed counts with all that it has, as does a topic that
        it has never read. Raises UnavailableError when no broker answers in time or a partition has
        no leader, ConfigError when there is no such topic, AccessError when the cluster does not
        let us ask.
        """
        return sum((await self.partitions(group, topic)).values())

    async def partitions(self, group: str, topic: str) -> dict[int, int]:
        """The same for each partition of *topic*."""
        only = self._settings.topic(topic)
        found = await GroupLagMonitor(self._settings, group, self._timeout_s, only=only).look()
        if found.unanswered:
            some = ", ".join(str(place.partition) for place in found.unanswered)
            raise UnavailableError(
                f"no leader of {only} answers for partition {some}: its lag is not known"
            )
        return {partition.place.partition: partition.look.lag for partition in found.partitions}
