"""Forward events that were published for later, each to its topic when it is due.

The scheduler runs beside the subscriptions, in a consumer group of its own, GROUP.scheduled. The
workers of a group share the partitions. An event's offset is committed after it was sent, so when a
worker dies, its last events are sent again. The ids stay the same, so that readers recognise them.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from itertools import groupby
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, MessageSizeTooLargeError
from aiokafka.structs import ConsumerRecord

from famulus.config import KafkaConfig
from famulus.errors import ClaimStoreError, ClaimTooLargeError, UnavailableError, UnsentError
from famulus.kafka.client import client_options
from famulus.kafka.log_reader import closed, poll
from famulus.kafka.record_batches import UnreadableBatchError
from famulus.kafka.stray_counts import strays
from famulus.producer.fallback_delivery import deliver
from famulus.producer.producer import Producer
from famulus.producer.scheduling import Scheduled, scheduled, scheduling_topic
from famulus.serialization.records import ProducerRecord
from famulus.wall_clock import wall_ms

log = structlog.get_logger()
POLL_S = 0.5  # longest time of a step
STEP_S = 0.005  # shortest time of a step
RECORDS = 500  # most records of one poll
FETCH_BYTES = 2**20  # fetch buffer of the client, for each partition
AGAIN_S = 1.0  # between two tries when Kafka is unavailable
DAMAGED_AGAIN_S = 10.0  # between two tries of reading a damaged batch
REBALANCE_MS = 30_000
NEVER_MS = 2**31 - 1  # no poll is needed while the first event of each partition waits for a day


class Scheduler:
    """Forwards the events in the scheduling topic of a group.

    *on_fault* is called with an error that ended the scheduler. *blocked* has the reason as text
    while no event can be forwarded, else it is empty.
    """

    def __init__(
        self,
        settings: KafkaConfig,
        producer: Producer,
        on_fault: Callable[[Exception], Awaitable[Any]],
    ) -> None:
        self.topic = scheduling_topic(settings.consumer_config.group_id)
        self.blocked = ""
        self._settings = settings
        self._producer = producer
        self._on_fault = on_fault
        # By partition: offsets and events that were fetched, None for a record that is no event.
        self._heads: dict[TopicPartition, deque[tuple[int, Scheduled | None]]] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Join the group and start forwarding.

        Raises UnavailableError when the group cannot be joined.
        """
        config = self._settings.consumer_config
        consumer = AIOKafkaConsumer(
            **client_options(self._settings),
            group_id=self.topic,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=FETCH_BYTES,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            max_poll_interval_ms=NEVER_MS,
            rebalance_timeout_ms=REBALANCE_MS,
        )
        consumer.subscribe([self.topic], listener=_Forgetting(self._heads))
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise UnavailableError(
                f"topic {self.topic} cannot be read: {error}; start the worker again"
            ) from error
        self._consumer = consumer
        self._task = asyncio.create_task(self._run(consumer), name="scheduler")

    async def stop(self) -> None:
        """Stop forwarding.

        Events that are being sent may be sent again.
        """
        await closed(self._task, self._consumer)

    async def _run(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while True:
                try:
                    await self._step(consumer)
                except UnreadableBatchError as error:
                    self.blocked = (
                        f"{error.args[0]}; what waits behind them does not get on. To skip "
                        "them: stop the workers, and "
                        f"set the offset of group {self.topic} behind them"
                    )
                    log.error(self.blocked, again_in_s=DAMAGED_AGAIN_S)  # without a traceback
                    await asyncio.sleep(DAMAGED_AGAIN_S)
                except KafkaError as error:
                    self.blocked = f"{self.topic} cannot be read: {type(error).__name__}: {error}"
                    log.error(self.blocked, again_in_s=AGAIN_S)  # without a traceback
                    await asyncio.sleep(AGAIN_S)
        except Exception as error:
            log.exception("the scheduler ended")
            await self._on_fault(error)

    async def _step(self, consumer: AIOKafkaConsumer) -> None:
        """Wait until records arrive or an event is due, then forward the due events."""
        wait_s = self._wait_s(wall_ms())
        if wanted := [tp for tp in consumer.assignment() if not self._heads.get(tp)]:
            fetched = await poll(
                consumer,
                *wanted,
                timeout_ms=round(wait_s * 1000),
                max_records=RECORDS,
                skipped=strays.skipped("scheduled"),
            )
            for tp, records in fetched.items():
                self._heads[tp] = deque((record.offset, _read(record)) for record in records)
        else:
            await asyncio.sleep(wait_s)
        due, offsets = self._take(wall_ms())
        if not offsets:
            return
        await self._forward(due)
        self.blocked = ""
        try:
            await consumer.commit(offsets)
        except (KafkaError, IllegalStateError) as error:  # another worker owns the partition now
            log.warning(
                "what was published for later leaves again", why=f"{type(error).__name__}: {error}"
            )

    def _wait_s(self, now_ms: int) -> float:
        firsts = [head[0][1] for head in self._heads.values() if head]
        wait_ms = min(
            (first.until_ms - now_ms if first else 0 for first in firsts), default=POLL_S * 1000
        )
        return min(max(wait_ms / 1000, STEP_S), POLL_S)

    def _take(self, now_ms: int) -> tuple[list[Scheduled], dict[TopicPartition, int]]:
        """Return the due events, and the offsets to commit once they were sent."""
        due: list[Scheduled] = []
        offsets: dict[TopicPartition, int] = {}
        for tp, head in self._heads.items():
            while head and ((first := head[0][1]) is None or first.until_ms <= now_ms):
                offsets[tp] = head.popleft()[0] + 1
                if first is not None:
                    due.append(first)
        return due, offsets

    async def _forward(self, due: Sequence[Scheduled]) -> None:
        """Send due events to their topics.

        An event whose present wait has ended before its time goes to the partition of its next
        wait.
        """
        now_ms = wall_ms()
        await self._keep([each.to_wait(self.topic, now_ms) for each in due if each.due_ms > now_ms])
        ready = sorted(
            (each for each in due if each.due_ms <= now_ms), key=lambda each: each.record.topic
        )
        for topic, of_topic in groupby(ready, lambda each: each.record.topic):
            await self._deliver(topic, list(of_topic))

    async def _deliver(self, topic: str, events: Sequence[Scheduled]) -> None:
        """Send *events* to their topic, or schedule them for another try.

        When the topic does not take them, they wait in the scheduling topic and block no other
        events.
        """
        try:
            await deliver(
                self._producer,
                [await self._producer.claims.check_in(each.record) for each in events],
            )
        except (UnsentError, ClaimStoreError, ClaimTooLargeError) as error:
            is_one = isinstance(error, ClaimTooLargeError) or isinstance(
                error.__cause__, MessageSizeTooLargeError
            )
            if is_one and len(events) > 1:
                for each in events:
                    await self._deliver(topic, [each])
                return
            log.error(
                "events that are due do not leave, they are tried again",
                topic=topic,
                events=len(events),
                error=str(error),
            )
            await self._keep([each.to_try_again(self.topic, wall_ms()) for each in events])

    async def _keep(self, records: Sequence[ProducerRecord]) -> None:
        """Write *records* to the scheduling topic, trying until Kafka takes them."""
        while records:
            try:
                await deliver(self._producer, records)
            except UnsentError as error:
                self.blocked = f"what was published for later does not get on: {error}"
                log.error(self.blocked, again_in_s=AGAIN_S)  # without a traceback
                await asyncio.sleep(AGAIN_S)
            else:
                return


class _Forgetting(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Discards what was fetched on a rebalance, as reading restarts at the committed offsets."""

    def __init__(self, heads: dict[TopicPartition, deque[tuple[int, Scheduled | None]]]) -> None:
        self._heads = heads

    # The signatures are those of the base class.
    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:  # noqa: ARG002
        self._heads.clear()

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        pass


def _read(record: ConsumerRecord) -> Scheduled | None:
    now_ms = wall_ms()
    return strays.read("scheduled", record, lambda record: scheduled(record, now_ms))
