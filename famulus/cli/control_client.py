"""Helpers for commands that read or write the admin topic of the group."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.control.admin_topic import prepare_admin_topics, read_admin_topic, target_of
from famulus.control.control_state import ControlState
from famulus.control.pauses import EVERYTHING, PauseScope
from famulus.control.seek_planner import done
from famulus.producer.producer import Producer

ANSWER_MS = 30_000  # as long as an operator waits for an answer


async def read_told(app: Famulus) -> ControlState:
    """Read the group's current control state from its admin topic.

    The state is empty while there is no admin topic. Raises UnavailableError without a broker,
    ConfigError when the topic is damaged.
    """
    return await read_admin_topic(app.settings.kafka, app.settings.worker.startup_timeout_s)


@asynccontextmanager
async def control_producer(app: Famulus) -> AsyncIterator[Producer]:
    """Open a producer for the admin topic, which is created if missing.

    The delivery timeout of the producer is 30 seconds at most. Raises as `prepare_admin_topics` and
    the producer do.
    """
    kafka = app.settings.kafka
    await prepare_admin_topics(kafka, app.settings.worker.startup_timeout_s)
    config = kafka.producer_config
    patient = config.model_copy(
        update={"delivery_timeout_ms": min(config.delivery_timeout_ms, ANSWER_MS)}
    )
    async with Producer(kafka.model_copy(update={"producer_config": patient})) as producer:
        yield producer


async def resolve_scope(app: Famulus, topic: str | None, partition: int | None) -> PauseScope:
    """Resolve *topic* and *partition* to a pause scope; None as *topic* means all topics.

    Raises as `target_of` does.
    """
    topics = {name: s.topic_name for name, s in app.subscriptions.items()}
    return await target_of(
        app.settings.kafka,
        topics,
        topic or EVERYTHING,
        partition,
        app.settings.worker.startup_timeout_s,
    )


async def cancel_seeks(app: Famulus, places: Iterable[TopicPartition]) -> None:
    """Cancel the pending seeks of *places*, so that no worker executes them.

    Raises as `read_told` and `control_producer` do.
    """
    seeks = (await read_told(app)).seeks
    if names := [name for at in places for name in seeks.names(at.topic, at.partition)]:
        async with control_producer(app) as producer:
            await done(producer, app.group, names)
