"""Configurations of topics, and their retention."""

from collections.abc import Callable, Collection, Iterable

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from famulus.config import KafkaConfig
from famulus.errors import ConfigError, OperatingError
from famulus.kafka.admin import admin_of, refusal_of
from famulus.kafka.diagnostics import TopicFacts

log = structlog.get_logger()
KEPT = "retention.ms", "cleanup.policy"
COMPACT = "compact"


async def configs_of(
    admin: AIOKafkaAdminClient, topics: Collection[str], names: Iterable[str]
) -> dict[str, dict[str, str]]:
    """Return the configurations *names* of each of the existing *topics*.

    Raises AccessError for a missing right, ConfigError for another refusal.
    """
    found: dict[str, dict[str, str]] = {}
    wanted = dict.fromkeys(names)
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in topics]
    for answer in await admin.describe_configs(resources) if resources else ():
        for code, message, _, name, entries in answer.resources:
            if code:
                raise refusal_of(f"read the settings of topic {name}", code, message)
            found[name] = {entry[0]: entry[1] for entry in entries}
    if missing := set(topics) - set(found):
        raise ConfigError(f"the settings of {', '.join(sorted(missing))} cannot be read: no answer")
    return found


async def check_compacted(settings: KafkaConfig, topics: Collection[str], timeout_s: float) -> None:
    """Raise ConfigError for a state changelog whose cleanup policy is not compaction alone.

    If the cluster refuses to show configurations, as without the right to read them, nothing is
    checked. Raises UnavailableError when no broker answers within *timeout_s* seconds.
    """
    async with admin_of(settings, timeout_s) as admin:
        try:
            found = await configs_of(admin, topics, ["cleanup.policy"])
        except OperatingError as error:
            log.info("whether changelogs are compacted is not known", error=str(error))
            return
    for name, configs in found.items():
        if (policy := configs.get("cleanup.policy", COMPACT)) != COMPACT:
            raise ConfigError(
                f"the changelog {name} has cleanup.policy={policy}, so Kafka deletes rows that "
                "nobody has changed for "
                f"a while: `kafka-configs.sh --bootstrap-server {settings.bootstrap_servers} "
                "--entity-type topics "
                f"--entity-name {name} --alter --add-config cleanup.policy={COMPACT}` mends that"
            )


async def retentions(
    settings: KafkaConfig, is_wanted: Callable[[str], bool], timeout_s: float
) -> dict[str, float]:
    """Return the retention in seconds of topics that *is_wanted*, infinity for unlimited.

    A compacted topic is unlimited: it keeps the last record of a key. Raises UnavailableError when
    no broker answers within *timeout_s* seconds, ConfigError for a refusal.
    """
    async with admin_of(settings, timeout_s) as admin:
        names = sorted(name for name in await admin.list_topics() if is_wanted(name))
        found = await configs_of(admin, names, KEPT)
    return {name: TopicFacts(0, configs=configs).kept_ms / 1000 for name, configs in found.items()}
