"""The consumer group from outside of a worker: its members, its commits, and commits for it."""

import asyncio
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from famulus.config import KafkaConfig
from famulus.errors import ConfigError, UnavailableError
from famulus.kafka.admin import admin_of
from famulus.kafka.client import client_options
from famulus.kafka.group_admin import GroupAdmin
from famulus.observability.logs import described


async def check_empty(settings: KafkaConfig, timeout_s: float) -> None:
    """Raise ConfigError while the group has members.

    Raises UnavailableError when no broker answers within *timeout_s* seconds.
    """
    members = await members_of(settings, timeout_s)
    if members:
        config = settings.consumer_config
        raise ConfigError(
            f"group {config.group_id} is at work ({', '.join(members)}): stop its workers "
            "first; one that was killed "
            f"counts for another {config.session_timeout_ms / 1000:g} s"
        )


async def members_of(settings: KafkaConfig, timeout_s: float) -> list[str]:
    """Return the members of the group as client@host. Raises as `check_empty`, and AccessError."""
    async with admin_of(settings, timeout_s) as admin:
        members = await GroupAdmin(admin, settings.consumer_config.group_id).members()
    return [name for name, _ in members.each]


async def committed_of(
    settings: KafkaConfig, places: Iterable[TopicPartition], timeout_s: float
) -> dict[TopicPartition, int | None]:
    """Return the committed offset of each of *places*, None without a commit.

    Raises as `members_of` does.
    """
    async with admin_of(settings, timeout_s) as admin:
        found = await GroupAdmin(admin, settings.consumer_config.group_id).committed()
    return {at: found.get(at) for at in places}


async def ends_of(
    settings: KafkaConfig, places: Iterable[TopicPartition], timeout_s: float
) -> dict[TopicPartition, int]:
    """Return the end offset of each of *places*, one past the newest record.

    Records of open transactions count. Raises as `members_of` does.
    """
    async with admin_of(settings, timeout_s) as admin:
        asker = GroupAdmin(admin, settings.consumer_config.group_id)
        await asker.leaders()
        return await asker.offsets(places, "latest")


async def commit_for(
    settings: KafkaConfig, offsets: Mapping[TopicPartition, int], timeout_s: float
) -> None:
    """Commit *offsets* for the group, which must have no members.

    Raises UnavailableError when that fails or takes longer than *timeout_s* seconds.
    """
    consumer = AIOKafkaConsumer(
        **client_options(settings),
        group_id=settings.consumer_config.group_id,
        enable_auto_commit=False,
    )
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await consumer.start()
                consumer.assign(list(offsets))
                await consumer.commit(dict(offsets))
            finally:
                await consumer.stop()
    except (TimeoutError, KafkaError, OSError) as error:
        raise UnavailableError(
            f"the offsets of group {settings.consumer_config.group_id} were not committed "
            f"({described(error)}): do it again"
        ) from error
