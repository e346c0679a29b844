"""Administration of topics, and the checks of cluster and port before a worker starts."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from famulus.config import KafkaConfig
from famulus.errors import AccessError, ConfigError, OperatingError, UnavailableError
from famulus.kafka.client import client_options
from famulus.kafka.connection_diagnosis import why_away, why_refused
from famulus.kafka.silence import silenced
from famulus.kafka.topic_ids import Topics, topics_of

log = structlog.get_logger()
LOOK_S = 0.1  # between two checks if new topics have leaders
AGAIN_S = (0.25, 0.5, 1.0, 2.0)  # waits before a missing topic is asked for again
# Until then compaction keeps all records of a key. The owner of a partition needs less time to
# rewrite keys to which a worker without a claim has written.
COMPACTION_LAG_MS = 3_600_000
ROOM_BYTES = 64 * 2**10  # for the engine's headers, in addition to the largest record
STATE_BATCH_BYTES = 1_048_588  # a broker's default of message.max.bytes
REFUSALS = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    ClusterAuthorizationFailedError,
)


async def partitions_of(
    settings: KafkaConfig, topics: Iterable[str], timeout_s: float
) -> dict[str, int]:
    """Return the partition counts of *topics* (cluster names); missing topics are left out.

    Raises UnavailableError when no broker answers within *timeout_s* seconds, AccessError when a
    right is missing.
    """
    async with admin_of(settings, timeout_s) as admin:
        return await _partitions_of(admin, topics)


async def topics_there(settings: KafkaConfig, names: Collection[str], timeout_s: float) -> Topics:
    """Return those of *names* that exist, with their ids. Raises as `partitions_of` does."""
    async with admin_of(settings, timeout_s) as admin:
        return await topics_of(admin._client, names, timeout_s)


async def _partitions_of(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, int]:
    if not (names := sorted(set(topics))):  # an empty request would describe all topics
        return {}
    # With auto-creation, a request for a topic by name would create it with the broker's defaults.
    answer = await admin._send_request(MetadataRequest(names, allow_auto_topic_creation=False))
    described = answer.to_object()["topics"]
    for topic in described:
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            raise not_allowed(f"look at topic {topic['topic']}")
    return {
        topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]
    }


async def topics_like(
    settings: KafkaConfig, is_meant: Callable[[str], bool], timeout_s: float
) -> dict[str, int]:
    """Return the partition counts of the visible topics for whose names *is_meant* is true.

    Raises UnavailableError as `partitions_of` does.
    """
    async with admin_of(settings, timeout_s) as admin:
        return await _partitions_of(admin, filter(is_meant, await admin.list_topics()))


def not_allowed(what: str) -> AccessError:
    """Return the error for a missing right to do *what*."""
    return AccessError(
        f"the cluster does not let us {what}: `faust -A app acls` prints the rights that are needed"
    )


def refusal_of(what: str, code: int, message: str | None) -> OperatingError:
    """Return the error for *what* the cluster refuses with the error *code*.

    AccessError for a missing right, ConfigError for any other reason.
    """
    error = for_code(code)
    if issubclass(error, REFUSALS):
        return not_allowed(what)
    return ConfigError(f"the cluster does not {what}: {message or error.__name__}")


async def create_topics(
    settings: KafkaConfig,
    topics: Mapping[str, int],
    timeout_s: float,
    configs: Mapping[str, str] | None = None,
) -> list[str]:
    """Create the missing ones of *topics* (name -> partitions) with *configs*; return their names.

    Existing topics stay unchanged. Raises UnavailableError when no broker answers within
    *timeout_s* seconds, AccessError when a right is missing, ConfigError when the cluster refuses
    for another reason.
    """
    there = await ensure_topics(settings, topics, timeout_s, dict.fromkeys(topics, configs or {}))
    return sorted(topics.keys() - there.keys())


async def ensure_topics(
    settings: KafkaConfig,
    topics: Mapping[str, int],
    timeout_s: float,
    configs: Mapping[str, Mapping[str, str]],
) -> dict[str, int]:
    """Create missing topics, each with *configs* of its own, in one request.

    Returns the partitions of those that existed before. Raises as `create_topics` does.
    """
    async with admin_of(settings, timeout_s) as admin:
        there = await _partitions_of(admin, topics)
        new = [
            NewTopic(
                name,
                partitions,
                settings.replication_factor,
                topic_configs=dict(configs.get(name, {})),
            )
            for name, partitions in topics.items()
            if name not in there
        ]
        errors = (await admin.create_topics(new)).topic_errors if new else ()
        for name, code, message in errors:
            # Another process has just created it, which is as good.
            if code and code != TopicAlreadyExistsError.errno:
                raise refusal_of(f"create topic {name}", code, message)
        # The controller has answered, but a busy broker learns of the topics seconds later.
        # There is no notification.
        while new and not await _are_led(admin, topics.keys() - there.keys()):
            await asyncio.sleep(LOOK_S)
    return there


async def _are_led(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> bool:
    """Return True if the broker knows *topics* and a leader of each of their partitions."""
    described = await admin.describe_topics(sorted(topics))
    return all(
        not topic["error_code"]
        and topic["partitions"]
        and all(p["leader"] >= 0 for p in topic["partitions"])
        for topic in described
    )


async def look_for(
    settings: KafkaConfig, topics: Iterable[str], timeout_s: float
) -> dict[str, int]:
    """Return partition counts as `partitions_of` does, and ask again while a topic is missing.

    A topic that was just created may take a moment to be seen. Gives up after some seconds, at most
    *timeout_s*. Raises as `partitions_of` does.
    """
    names = set(topics)
    there = await partitions_of(settings, names, timeout_s)
    for wait_s in AGAIN_S:
        if there.keys() >= names or wait_s > timeout_s:
            break
        await asyncio.sleep(wait_s)
        there = await partitions_of(settings, names, timeout_s)
    return there


def dead_letter_configs(settings: KafkaConfig, retention_h: float) -> dict[str, str]:
    """Return the configuration of a new dead letter topic.

    The retention of *retention_h* hours counts from the append to this topic. A record may be as
    large as the largest event with the headers of a dead letter.
    """
    return {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "retention.ms": str(round(retention_h * 3_600_000)),
        "max.message.bytes": str(
            max(settings.producer_config.max_request_size, STATE_BATCH_BYTES) + ROOM_BYTES
        ),
    }


async def add_partitions(
    settings: KafkaConfig, topic: str, partitions: int, timeout_s: float
) -> None:
    """Raise the partition count of *topic* to *partitions*, which must be more than it has.

    Returns when a broker knows the new partitions. Raises as `create_topics` does.
    """
    async with admin_of(settings, timeout_s) as admin:
        answer = await admin.create_partitions({topic: NewPartitions(partitions)})
        there = (await _partitions_of(admin, [topic])).get(topic, 0)
        for name, code, message in answer.topic_errors:
            # If there are enough by now, another worker has added them, which is as good.
            if code and there < partitions:
                raise refusal_of(f"add partitions to topic {name}", code, message)
        # The broker learns of new partitions some time after the controller.
        while len((await admin.describe_topics([topic]))[0]["partitions"]) < partitions:
            await asyncio.sleep(0.1)


async def prepare_state_topics(
    settings: KafkaConfig,
    topics: Mapping[str, int],
    tombstones_h: float,
    timeout_s: float,
    may_grow: Collection[str] = (),
) -> None:
    """Create the missing state changelogs (name -> partitions of the source), compacted.

    Tombstones are kept for *tombstones_h* hours. A changelog in *may_grow* that has fewer
    partitions than its source gets as many. Any other difference raises ConfigError: keys have
    moved to other partitions than their rows. Raises UnavailableError as `create_topics` does.
    """
    configs = {
        "cleanup.policy": "compact",
        "delete.retention.ms": str(round(tombstones_h * 3_600_000)),
        "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
        "max.message.bytes": str(STATE_BATCH_BYTES),
        "message.timestamp.type": "CreateTime",
    }
    await create_topics(settings, topics, timeout_s, configs)
    there = await partitions_of(settings, topics, timeout_s)
    for name, wanted in topics.items():
        if name in may_grow and there.get(name, wanted) < wanted:
            log.warning(
                "the state gets as many partitions as its source has by now; an event that "
                "comes again in "
                "another partition than before is not recognised",
                topic=name,
                partitions=wanted,
            )
            await add_partitions(settings, name, wanted, timeout_s)
        elif there.get(name, wanted) != wanted:
            raise changed_number(name, wanted, there[name])


def changed_number(changelog: str, wanted: int, there: int) -> ConfigError:
    """Return the error for a changelog whose partition count differs from its source's."""
    return ConfigError(
        f"the source of {changelog} has {wanted} partitions, the state {there}: the number was "
        "changed, so "
        "keys have moved to other partitions than their rows; read the topic with a new "
        "Kafka.ConsumerConfig."
        "GroupId, or take the rows along with `faust -A app state export` and `import --replace`"
    )


async def prepare_redelivery_topics(
    settings: KafkaConfig, topics: Mapping[str, int], retention_h: float, timeout_s: float
) -> None:
    """Create the missing retry and redrive topics (name -> partitions of the source).

    Records are kept for *retention_h* hours from their append. An existing topic gets more
    partitions if its source has more: each record names the partition to return to. Raises
    ConfigError when one has more partitions than its source, UnavailableError as `create_topics`
    does.
    """
    configs = {
        "retention.ms": str(round(retention_h * 3_600_000)),
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(
            max(settings.producer_config.max_request_size, 2**20) + ROOM_BYTES
        ),
    }
    await create_topics(settings, topics, timeout_s, configs)
    there = await partitions_of(settings, topics, timeout_s)
    for name, wanted in topics.items():
        if there.get(name, wanted) < wanted:
            await add_partitions(settings, name, wanted, timeout_s)
        elif there.get(name, wanted) > wanted:
            raise ConfigError(
                f"topic {name} has {there[name]} partitions, its source {wanted}: records come "
                "back to the partition "
                "that they came from, so the numbers must be equal; when it is empty, delete it"
            )


async def delete_topics(settings: KafkaConfig, prefix: str, timeout_s: float) -> list[str]:
    """Delete every topic whose name starts with *prefix* and return their names.

    Raises as `create_topics` does.
    """
    assert prefix, "a prefix, or every topic of the cluster would go"
    async with admin_of(settings, timeout_s) as admin:
        names = sorted(name for name in await admin.list_topics() if name.startswith(prefix))
        if names:
            await admin.delete_topics(names)
    return names


def check_port(host: str, port: int) -> None:
    """Raise ConfigError when *host*:*port* cannot be listened on."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise ConfigError(
            f"the web views cannot listen on {host}:{port}: {error.strerror or error}; "
            "choose another with --web-port or WORKER__WEBPORT, or start with --without-web"
        ) from None


@asynccontextmanager
async def admin_of(settings: KafkaConfig, timeout_s: float) -> AsyncIterator[AIOKafkaAdminClient]:
    """Yield an admin client for a few calls that must end within *timeout_s* seconds.

    Raises UnavailableError when no broker answers, AccessError when a login or a right is refused.
    """
    try:
        with silenced():
            async with asyncio.timeout(timeout_s):
                admin = await _connect(settings)
                try:
                    yield admin
                finally:
                    await admin.close()
    except REFUSALS as error:
        raise not_allowed(f"do this ({error})") from error
    except (TimeoutError, KafkaError, OSError) as error:
        if isinstance(error, KafkaError) and (refused := await why_refused(settings)) is not None:
            raise refused from error
        why = await why_away(settings) or type(error).__name__
        raise UnavailableError(
            f"no Kafka broker answers at {settings.bootstrap_servers} by "
            f"{settings.security_protocol} within "
            f"{timeout_s:g} s ({why}); set KAFKA_BOOTSTRAP_SERVERS, or start one with "
            "`faust -A app broker start`"
        ) from error


async def _connect(settings: KafkaConfig) -> AIOKafkaAdminClient:
    while True:
        admin = AIOKafkaAdminClient(**client_options(settings))
        try:
            await admin.start()
        except (KafkaConnectionError, OSError) as error:
            await admin.close()
            if (refused := await why_refused(settings)) is not None:
                raise refused from error
            # The broker may be starting: try again until the caller's timeout.
            await asyncio.sleep(0.5)
        else:
            return admin
