"""What the commands that tell a group something share: what it is told by now, and a way to say more."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.control.admin_topic import prepare_admin_topics, read_admin_topic, target_of
from famulus.control.control_state import ControlState
from famulus.control.pauses import EVERYTHING, PauseScope
from famulus.control.seek_planner import done
from famulus.producer.producer import Producer

ANSWER_MS = 30_000  # for which a person waits


async def read_told(app: Famulus) -> ControlState:
    """What the admin topic says by now; nothing while there is none.

    Raises UnavailableError without a broker.
    """
    return await read_admin_topic(app.settings.kafka, app.settings.worker.startup_timeout_s)


@asynccontextmanager
async def control_producer(app: Famulus) -> AsyncIterator[Producer]:
    """What sends to the admin topic, which is there then.

    Raises as `prepare_admin_topics` and the producer do.
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
    """What somebody means, everything for None. Raises as `target_of`."""
    topics = {name: s.topic_name for name, s in app.subscriptions.items()}
    return await target_of(
        app.settings.kafka,
        topics,
        topic or EVERYTHING,
        partition,
        app.settings.worker.startup_timeout_s,
    )


async def cancel_seeks(app: Famulus, places: Iterable[TopicPartition]) -> None:
    """Take back the seeks of *places* that nobody has carried out, so that no worker does.

    Raises as `teller`.
    """
    seeks = (await read_told(app)).seeks
    if names := [name for at in places for name in seeks.names(at.topic, at.partition)]:
        async with control_producer(app) as producer:
            await done(producer, app.group, names)
