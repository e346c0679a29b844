"""The group's admin topic: every worker follows it, whoever operates the group writes to it.

It has one partition and is compacted, so a worker that starts reads what is paused before it starts
anything. Who wrote what stays in a second topic for ever. Whoever may write to the topic can hold
the group up: let only operators.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord

from famulus.config import KafkaConfig
from famulus.control.concurrency import PREFIX as WIDTH_PREFIX
from famulus.control.concurrency import ConcurrencyOverride
from famulus.control.control_state import ControlState
from famulus.control.pauses import (
    EVERYTHING,
    NOTE_MAX,
    Action,
    AuditInfo,
    PauseChange,
    Pauses,
    PauseScope,
    admin_audit_topic,
    admin_topic,
    audit_record,
    change_records,
)
from famulus.errors import ConfigError, UnavailableError
from famulus.kafka.admin import create_topics, partitions_of
from famulus.kafka.log_reader import closed, opened, poll
from famulus.kafka.record_batches import UnreadableBatchError
from famulus.kafka.stray_counts import strays
from famulus.observability.logs import described
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

log = structlog.get_logger()
POLL_MS = 500
AGAIN_S = 1.0  # between two tries when Kafka is away
SEEN_S = 5.0  # for which whoever changes something waits until this worker has seen it


class AdminLog:
    """Keeps what is *told* as the admin topic says it, and calls *on_change* after each change of it.

    *on_fault* is told why it cannot be followed any more.
    """

    def __init__(
        self,
        settings: KafkaConfig,
        control_state: ControlState,
        on_change: Callable[[], None],
        on_fault: Callable[[Exception], Awaitable[Any]],
    ) -> None:
        self._settings = settings
        self._on_fault = on_fault
        self._control_state = control_state
        self._on_change = on_change
        self._at = TopicPartition(admin_topic(settings.consumer_config.group_id), 0)
        self._next_offset = 0
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float) -> None:
        """Read all that is there, and follow from then on.

        Raises UnavailableError when it cannot be read in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                consumer = self._consumer = await opened(self._settings, self._at)
                end = (await consumer.end_offsets([self._at]))[self._at]
                while await consumer.position(self._at) < end:
                    await self._step(consumer)
        except UnreadableBatchError as error:
            await self.stop()
            raise unreadable_admin_topic(error) from None
        except (TimeoutError, KafkaError, OSError) as error:
            await self.stop()
            raise UnavailableError(
                f"topic {self._at.topic}, in which operators tell the group, cannot be read "
                f"({described(error)}); start again"
            ) from error
        self._task = asyncio.create_task(self._follow(consumer), name="admin")

    async def stop(self) -> None:
        """Follow no more."""
        await closed(self._task, self._consumer)
        self._task = self._consumer = None

    async def seen(self, next_offset: int) -> None:
        """Wait until the topic was read up to *next_offset*, or for some seconds: others will see it, too."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                # A person asks, now and then.
                while self._next_offset < next_offset:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def catch_up(self) -> None:
        """Wait until all was read that is there by now, or for some seconds.

        Raises UnavailableError.
        """
        assert self._consumer is not None, "not started"
        try:
            ends = await self._consumer.end_offsets([self._at])
        except KafkaError as error:
            raise UnavailableError(
                f"the end of topic {self._at.topic} cannot be read ({described(error)})"
            ) from error
        await self.seen(ends[self._at])

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        try:
            await self._follow_on(consumer)
        except Exception as error:  # noqa: BLE001  # a worker that hears nothing any more must not look alive
            await self._on_fault(error)

    async def _follow_on(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                await self._step(consumer)
            except UnreadableBatchError as error:
                raise unreadable_admin_topic(error) from None
            except KafkaError as error:
                log.error(
                    "what operators tell by now cannot be read",
                    topic=self._at.topic,
                    error=described(error),
                    again_in_s=AGAIN_S,
                )
                await asyncio.sleep(AGAIN_S)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        polled = await poll(consumer, self._at, timeout_ms=POLL_MS, skipped=strays.skipped("admin"))
        for records in polled.values():
            for record in records:
                if says := note(self._control_state, record):
                    log.warning(says, topic=self._at.topic)
                self._next_offset = record.offset + 1
            self._on_change()


def note(control_state: ControlState, record: ConsumerRecord) -> str:
    """Have *told* take *record*: what that says.

    Empty when it is none of ours, which is counted and left alone.
    """
    return (
        strays.read("admin", record, lambda record: control_state.take(record.key, record.value))
        or ""
    )


async def prepare_admin_topics(settings: KafkaConfig, timeout_s: float) -> None:
    """Create the admin topic and its audit topic, if missing.

    Raises as `observe.health.create_topics`.
    """
    group = settings.consumer_config.group_id
    kept = {"cleanup.policy": "delete", "retention.ms": "-1"}
    # Which tells the brokers' time.
    followed = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    wanted = {admin_topic(group): followed, admin_audit_topic(group): kept}
    await asyncio.gather(
        *(create_topics(settings, {name: 1}, timeout_s, of) for name, of in wanted.items())
    )


async def read_admin_topic(settings: KafkaConfig, timeout_s: float) -> ControlState:
    """What the group is told by now; nothing while there is no such topic.

    Raises UnavailableError without a broker.
    """
    control_state = ControlState()
    at = TopicPartition(admin_topic(settings.consumer_config.group_id), 0)
    if not await partitions_of(settings, [at.topic], timeout_s):
        return control_state
    try:
        consumer = await opened(settings, at)
        try:
            end = (await consumer.end_offsets([at]))[at]
            while await consumer.position(at) < end:
                polled = await poll(consumer, at, timeout_ms=200, skipped=strays.skipped("admin"))
                for record in polled.get(at, ()):
                    note(control_state, record)
        finally:
            await consumer.stop()
    except UnreadableBatchError as error:
        raise unreadable_admin_topic(error) from None
    except (KafkaError, OSError) as error:
        raise UnavailableError(f"topic {at.topic} cannot be read: {described(error)}") from error
    return control_state


def unreadable_admin_topic(error: UnreadableBatchError) -> ConfigError:
    """The error that says that the admin topic is damaged, and what helps."""
    return ConfigError(
        f"{error.args[0]}. What operators told the group there is lost: delete topic "
        f"{error.place.topic}, start again, "
        "and pause again what was paused"
    )


async def target_of(
    settings: KafkaConfig,
    topics: Mapping[str, str],
    topic: str,
    partition: int | None,
    timeout_s: float,
) -> PauseScope:
    """What somebody means, who knows *topics* (a subscription's name -> as on the cluster) by either name.

    Raises ConfigError when there is no such topic or partition, UnavailableError when no broker
    answers.
    """
    if topic == EVERYTHING:
        if partition is not None:
            raise ConfigError("a partition is one of a topic: name the topic")
        return PauseScope()
    name = topics.get(topic, topic)
    if name not in topics.values():
        raise ConfigError(
            f"nobody here reads a topic {topic!r}; there are {', '.join(sorted(topics)) or 'none'}"
        )
    if partition is not None:
        count = (await partitions_of(settings, [name], timeout_s)).get(name, 0)
        if not 0 <= partition < count:
            raise ConfigError(f"topic {name} has {count} partitions, the first is 0")
    return PauseScope(name, partition)


async def change(  # noqa: PLR0917  # who does what
    producer: Producer,
    group: str,
    pauses: Pauses,
    action: Action,
    target: PauseScope,
    by: str,
    why: str,
) -> tuple[Sequence[PauseScope], int]:
    """Pause or resume *target*: what was changed, and the offset of the admin topic up to which to read to know it.

    Nothing is changed when nothing of it was paused. Raises OperatingError when it would stay
    paused, and as the producer does.
    """
    targets = [target] if action == "pause" else pauses.lifted(target)
    records = change_records(group, action, targets, AuditInfo(by, now_text(), why[:NOTE_MAX]))
    # One after the other: nothing is done before it is written down who does it.
    places = [await producer.send(record) for record in records]
    return targets, places[-1].offset + 1 if places else 0


async def note_drain(producer: Producer, group: str, worker: str, by: str, why: str) -> None:
    """Write down for ever that somebody ends *worker*, before it is done.

    Raises as the producer does.
    """
    await producer.send(
        audit_record(group, PauseChange("drain", worker, by, now_text(), why[:NOTE_MAX]))
    )


async def set_width(  # noqa: PLR0917  # who does what
    producer: Producer, group: str, topic: str, concurrency: int | None, by: str, why: str
) -> int:
    """Let so many events of each partition of *topic* be in hand, of each worker for `*`; None: as the settings say.

    The offset of the admin topic up to which to read to know it. Raises as the producer does.
    """
    at, note = now_text(), why[:NOTE_MAX]
    await producer.send(
        audit_record(group, PauseChange("concurrency", topic, by, at, note, concurrency))
    )
    value = (
        None
        if concurrency is None
        else msgspec.json.encode(ConcurrencyOverride(concurrency, by, at, note))
    )
    sent = await producer.send(
        ProducerRecord(admin_topic(group), f"{WIDTH_PREFIX}{topic}".encode(), value, partition=0)
    )
    return sent.offset + 1


def now_text() -> str:
    """The time as the topic says it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
