"""The group's admin topic: operators write to it, and every worker follows it.

The topic has one partition and is compacted. A worker that starts reads all of it, and so learns
what is paused before it starts any event. A second topic keeps an audit record of each command
forever. Any client that may write to the admin topic can stop the group: allow only operators.
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
from famulus.kafka.log_reader import closed, opened, poll, read_to
from famulus.kafka.record_batches import UnreadableBatchError
from famulus.kafka.stray_counts import strays
from famulus.observability.logs import described
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

log = structlog.get_logger()
POLL_MS = 500
AGAIN_S = 1.0  # between two attempts while Kafka is unavailable
SEEN_S = 5.0  # limit for a caller that waits until this worker has read its change


class AdminLog:
    """Follows the admin topic, keeps *control_state* up to date and reports changes.

    *on_change* is called after each poll that brought records. *on_fault* ends the worker when the
    topic cannot be followed any more.
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
        """Read the admin topic to its end, and follow it from then on.

        Raises UnavailableError when that takes longer than *timeout_s* seconds or Kafka refuses it,
        and ConfigError when the topic is damaged.
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
        """Stop following the topic."""
        await closed(self._task, self._consumer)
        self._task = self._consumer = None

    async def seen(self, next_offset: int) -> None:
        """Wait until the topic was read up to *next_offset*, for SEEN_S seconds at most.

        Other workers read it at about the same time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SEEN_S):
                # Polling is good enough: operators call this, and rarely.
                while self._next_offset < next_offset:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def catch_up(self) -> None:
        """Wait until the topic was read to its current end, for SEEN_S seconds at most.

        Raises UnavailableError when the end cannot be asked for.
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
        except Exception as error:  # a worker that cannot read the topic must not look alive
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
    """Apply *record* to *control_state* and return a description of it.

    Returns "" for a stray record, which is counted and skipped.
    """
    return (
        strays.read("admin", record, lambda record: control_state.take(record.key, record.value))
        or ""
    )


async def prepare_admin_topics(settings: KafkaConfig, timeout_s: float) -> None:
    """Create the admin topic and its audit topic, if missing.

    Raises as `kafka.admin.create_topics` does.
    """
    group = settings.consumer_config.group_id
    kept = {"cleanup.policy": "delete", "retention.ms": "-1"}
    # With LogAppendTime, the records show the brokers' time, see `control_state.CLOCK`.
    followed = {"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime"}
    wanted = {admin_topic(group): followed, admin_audit_topic(group): kept}
    await asyncio.gather(
        *(create_topics(settings, {name: 1}, timeout_s, of) for name, of in wanted.items())
    )


async def read_admin_topic(settings: KafkaConfig, timeout_s: float) -> ControlState:
    """Return the group's current control state; it is empty while there is no such topic.

    Raises UnavailableError when no broker answers, and ConfigError when the topic is damaged.
    """
    control_state = ControlState()
    at = TopicPartition(admin_topic(settings.consumer_config.group_id), 0)
    if not await partitions_of(settings, [at.topic], timeout_s):
        return control_state
    try:
        consumer = await opened(settings, at)
        try:
            end = (await consumer.end_offsets([at]))[at]
            async for _, records in read_to(consumer, {at: end}, skipped=strays.skipped("admin")):
                for record in records:
                    note(control_state, record)
        finally:
            await consumer.stop()
    except UnreadableBatchError as error:
        raise unreadable_admin_topic(error) from None
    except (KafkaError, OSError) as error:
        raise UnavailableError(f"topic {at.topic} cannot be read: {described(error)}") from error
    return control_state


def unreadable_admin_topic(error: UnreadableBatchError) -> ConfigError:
    """Return the error for a damaged admin topic, with its cure."""
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
    """Return the pause scope that *topic* and *partition* stand for.

    *topics* maps a subscription's name to the topic on the cluster; both names are accepted. `*` is
    every topic. Raises ConfigError when there is no such topic or partition, and UnavailableError
    when no broker answers.
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


async def change(
    producer: Producer,
    group: str,
    pauses: Pauses,
    *,
    action: Action,
    target: PauseScope,
    by: str,
    why: str,
) -> tuple[Sequence[PauseScope], int]:
    """Pause or resume *target*, and return the changed scopes and the offset to wait for.

    The change is visible once the admin topic is read up to that offset. Resuming something that is
    not paused changes nothing, and the offset is 0. Raises OperatingError when *target* would stay
    paused as part of a wider scope, and what the producer raises.
    """
    targets = [target] if action == "pause" else pauses.lifted(target)
    records = change_records(group, action, targets, AuditInfo(by, now_text(), why[:NOTE_MAX]))
    # One after the other, so that the audit record is written before the change.
    places = [await producer.send(record) for record in records]
    return targets, places[-1].offset + 1 if places else 0


async def note_drain(producer: Producer, group: str, worker: str, by: str, why: str) -> None:
    """Write an audit record that *by* ends *worker*. Call this before ending it.

    The record is kept forever. Raises what the producer raises.
    """
    await producer.send(
        audit_record(group, PauseChange("drain", worker, by, now_text(), why[:NOTE_MAX]))
    )


async def set_width(
    producer: Producer, group: str, topic: str, *, concurrency: int | None, by: str, why: str
) -> int:
    """Set the concurrent events per partition of *topic*; `*` sets them per worker.

    *concurrency* None restores the value of the settings. Returns the offset up to which to read
    the admin topic to see the change. Raises what the producer raises.
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
    """Return the current time as the topic has it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
