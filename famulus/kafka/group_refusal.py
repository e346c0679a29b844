"""Texts and cures for refusals of a consumer group; brokers answer only with a code."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import BrokerResponseError, kafka_errors

from famulus.config import KafkaConfig
from famulus.errors import ConfigError, OperatingError, UnavailableError
from famulus.kafka.admin import admin_of, not_allowed
from famulus.kafka.group_admin import GroupAdmin
from famulus.observability.logs import described

SESSION_LIMITS = "group.min.session.timeout.ms", "group.max.session.timeout.ms"
RIGHTS = {"GroupAuthorizationFailed": "read in", "TopicAuthorizationFailed": "read the topics of"}


class GroupMaxSizeReachedError(BrokerResponseError):  # type: ignore[misc]  # aiokafka is untyped
    """The group has as many members as it may have.

    aiokafka has no error for this code.
    """

    errno = 81
    message = "GROUP_MAX_SIZE_REACHED"


kafka_errors.setdefault(GroupMaxSizeReachedError.errno, GroupMaxSizeReachedError)


async def why_refused(settings: KafkaConfig, error: Exception, timeout_s: float) -> OperatingError:
    """Return why the group refuses a worker with *error*, from aiokafka's group coordinator.

    The brokers are asked for details, for *timeout_s* seconds at most.
    """
    config = settings.consumer_config
    group = config.group_id
    # aiokafka raises an unexpected error as another one, with its name in the text.
    description = described(error)
    for right, what in RIGHTS.items():
        if right in description:
            return not_allowed(f"{what} consumer group {group}")
    if "InconsistentGroupProtocol" in description:
        others = await _asked(settings, _others, timeout_s, "others")
        why = (
            f"consumer group {group} is used by {others}, with another way of sharing out "
            "partitions: stop them, or "
            "set another Kafka.ConsumerConfig.GroupId"
        )
    elif "InvalidSessionTimeout" in description:
        allowed = await _asked(settings, _session_limits, timeout_s, "others")
        why = (
            f"Kafka.ConsumerConfig.SessionTimeoutMs is {config.session_timeout_ms} ms, the "
            f"brokers allow {allowed} "
            f"({', '.join(SESSION_LIMITS)}): set what they allow"
        )
    elif "InvalidGroupId" in description:
        why = (
            f"the brokers take {group!r} for no name of a consumer group: set another "
            "Kafka.ConsumerConfig.GroupId"
        )
    elif "GroupMaxSizeReached" in description:
        why = (
            f"consumer group {group} has as many members as the brokers allow "
            "(group.max.size): start fewer workers"
        )
    else:
        return UnavailableError(
            f"the brokers do not let this worker into consumer group {group}: {description}"
        )
    return ConfigError(why)


async def _asked(
    settings: KafkaConfig,
    ask: Callable[[GroupAdmin, AIOKafkaAdminClient], Awaitable[str]],
    timeout_s: float,
    unless: str,
) -> str:
    """Return the answer of *ask*, or *unless* when the brokers give none."""
    with suppress(OperatingError):
        async with admin_of(settings, timeout_s) as admin:
            return await ask(GroupAdmin(admin, settings.consumer_config.group_id), admin) or unless
    return unless


async def _others(asker: GroupAdmin, _: AIOKafkaAdminClient) -> str:
    return ", ".join(sorted({name for name, _ in (await asker.members()).each}))


async def _session_limits(_: GroupAdmin, admin: AIOKafkaAdminClient) -> str:
    broker = min(broker.nodeId for broker in admin._client.cluster.brokers())
    asked = ConfigResource(ConfigResourceType.BROKER, str(broker), dict.fromkeys(SESSION_LIMITS))
    [answer] = await admin.describe_configs([asked])
    [(_code, _message, _type, _name, entries)] = answer.resources
    found = {entry[0]: entry[1] for entry in entries}
    limits = [found[name] for name in SESSION_LIMITS if name in found]
    return f"{' to '.join(limits)} ms" if limits else ""
