"""For how long topics keep their records."""

import math
from collections.abc import Callable

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from app.config import KafkaConfig
from app.errors import ConfigError
from app.observe.health import admin_of

NAMES = "retention.ms", "cleanup.policy"


async def retentions(settings: KafkaConfig, is_wanted: Callable[[str], bool], timeout_s: float) -> dict[str, float]:
    """Seconds for each topic of the cluster that *is_wanted*, infinity for one that keeps records for ever.

    A compacted topic does: the last record of a key. Raises UnavailableError when no broker answers within *timeout_s*,
    ConfigError when the cluster does not tell.
    """
    found: dict[str, float] = {}
    async with admin_of(settings, timeout_s) as admin:
        names = sorted(name for name in await admin.list_topics() if is_wanted(name))
        if not names:
            return found
        wanted = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(NAMES)) for name in names]
        for answer in await admin.describe_configs(wanted):
            for code, message, _, name, entries in answer.resources:
                if code:
                    raise ConfigError(f"the retention of {name} cannot be read: {message or for_code(code).__name__}")
                found[name] = _seconds({entry[0]: entry[1] for entry in entries})
    if missing := set(names) - set(found):
        raise ConfigError(f"the retention of {', '.join(sorted(missing))} cannot be read: no answer")
    return found


def _seconds(config: dict[str, str]) -> float:
    kept_ms = int(config["retention.ms"])
    return math.inf if kept_ms < 0 or "compact" in config["cleanup.policy"] else kept_ms / 1000
