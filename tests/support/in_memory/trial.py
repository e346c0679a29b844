"""One partition with everything of the engine from the flow up, on a store in memory, and handlers that fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import svcs
from faust.types import TP

from famulus import Event
from famulus.deadletter.record import our_headers
from famulus.deadletter.redelivery import Action, outgoing, returning
from famulus.deadletter.topics import dead_letter_topic, redrive_topic, retry_topic
from famulus.observability.metrics import Counts
from famulus.processing.checkpoint_loop import WorkerCallbacks
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import Dispatcher, EventTypes, Handler, handler_for
from famulus.processing.partition_processor import Limits, PartitionProcessor
from famulus.processing.pipeline import Pipeline
from famulus.processing.task_pool import TaskPool
from famulus.producer.event_bus import EventBus
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import Delivery, ProducerRecord
from famulus.state.changelog import ATTEMPTS, DEAD, MARK, SourcePosition, row_key
from famulus.state.dedupe import Dedupe
from famulus.state.failure_state import FailureState
from famulus.state.partition_state import Checkpoint, PartitionState
from famulus.state.unit_of_work import current_attempt, current_unit
from tests.support.in_memory.clock import EPOCH_S, Clock
from tests.support.in_memory.failing import NEVER, NO_CLAIMS, failing_of
from tests.support.in_memory.house import Fetch
from tests.support.in_memory.stored import Memory

DEDUPE = Dedupe(7 * 86_400_000)
LETTERS, REDRIVE = dead_letter_topic("t"), redrive_topic("t", "group")
STEP_S = 0.01  # between two looks whether something has come
LIMIT_S = 500.0


class Try(Event, namespace="test.Try", topic="t", key="key"):
    """An event whose name says what its handlers make of it."""

    key: str
    name: str


class Call(NamedTuple):
    """A handler was called: when, which one, for what, and which attempt it was told that this is."""

    at_s: float
    handler: str
    name: str
    attempt: int


class Letter(NamedTuple):
    """What a dead letter says."""

    name: str
    kind: str
    handler: str
    attempts: int


Do = Callable[[Try], Awaitable[None]]


class Trial:
    """A partition and what outlives its workers: the source, the store, what was sent.

    *options* are those of Failing.

    *stages*: how many retry topics there are. Every handler counts its calls in a row before it
    does anything else.
    """

    unwritten = ""  # as of a settler whose disk takes all

    def __init__(
        self,
        clock: Clock,
        *,
        concurrency: int = 4,
        order: Any = "key",
        on_unknown_type: Any = "ignore",
        dedupe: Dedupe | None = DEDUPE,
        stages: int = 0,
        flood: Breaker = NEVER,
        **options: Any,
    ) -> None:
        self.clock = clock
        self.concurrency = concurrency
        self.calls: list[Call] = []
        self.faults: list[Exception] = []
        self.sent: list[ProducerRecord] = []
        self.source: list[Any] = []
        self.back: dict[str, list[Any]] = {}
        self.finished_back: dict[str, int] = {}  # what the group has committed of those topics
        self.stored: dict[bytes, bytes] = {}
        self.written: list[tuple[bytes, bytes | None]] = []
        self.processed: SourcePosition | None = None
        self.timeouts_s: dict[str, float] = {}
        self.may_settle = asyncio.Event()
        self.may_settle.set()
        self.dispatcher = Dispatcher(svcs.Registry(), EventBus(SimpleNamespace(), current_attempt))  # type: ignore[arg-type]
        self.counts = Counts()
        topics = (REDRIVE, *(retry_topic("t", "group", number + 1) for number in range(stages)))
        self.pipeline = Pipeline(
            EventTypes("t", [Try]),
            self.dispatcher,
            dedupe,
            dedupe or DEDUPE,
            self.counts,
            on_unknown_type,
            failing_of(self.counts, flood, succeeded=self._succeeded, order=order, **options),
            NO_CLAIMS,
            topics,
        )

    def _succeeded(self) -> int:
        return sum(handler.breaker.passed for handler in self.dispatcher.handlers)

    def handler(
        # Frozen.
        self,
        name: str,
        do: Do,
        retry: Retry = Retry(),
        breaker: Breaker = NEVER,
        **policy: Any,
    ) -> Handler:
        """Add a handler that does *do*."""

        async def call(event: Try, delivery: Delivery) -> None:
            self.calls.append(
                Call(round(self.clock.passed_s, 3), name, event.name, delivery.attempt)
            )
            unit = current_unit()
            assert unit is not None
            row = row_key(name, event.name.encode())
            unit.write(row, b"%d" % (int(unit.row(row) or 0) + 1))
            await do(event)

        call.__module__, call.__qualname__ = "h", name
        made = handler_for(Try, call, Policy(retry, **policy), breaker)
        self.dispatcher.add(made)
        if made.policy.timeout_s:
            self.timeouts_s[made.name] = made.policy.timeout_s
        return made

    # The worker.

    def start(self, chunk: int = 7) -> None:
        """Start a worker where the last one was."""
        store: Any = Memory(self.stored)
        store.rows = self.stored
        state = PartitionState(0, store, 10_000)
        state.processed = self.processed
        state.failure_state = FailureState(
            [(k, v) for k, v in self.stored.items() if k[:1] in {ATTEMPTS, DEAD}]
        )
        self.task_pool = TaskPool(self.concurrency, self.fault, self.timeouts_s)
        ties = WorkerCallbacks(lambda: True, self.publish, self.fault, lambda _: None)
        checkpointer: Any = self
        begin = self.processed.next_offset if self.processed else 0
        limits = Limits(self.concurrency, 1_000, 1_000_000, chunk)
        self.processor = PartitionProcessor(
            TP("t", 0),
            self.pipeline,
            state,
            checkpointer=checkpointer,
            limits=limits,
            ties=ties,
            on_room=self.task_pool.wake,
            begin=begin,
        )
        self._receive(self.source[begin:])
        for topic, records in self.back.items():
            self._receive_back(topic, records[self.finished_back.get(topic, 0) :])

    async def kill(self) -> None:
        """End the worker at once; nothing is written any more."""
        self.processor.abandon()
        self.finished_back = {
            tp.topic: back.offsets.next_offset or 0 for tp, back in self.processor.backs.of.items()
        }
        task = self.processor.checkpoint_loop.task
        if task is not None:
            task.cancel()
        await self.task_pool.stop()

    async def fault(self, error: Exception) -> None:
        """What would end the worker."""
        self.faults.append(error)

    async def publish(self, records: Sequence[ProducerRecord]) -> None:
        """Send *records*; what goes to a topic through which it comes back does so at once."""
        self.sent += records
        for record in records:
            if record.topic in self.pipeline.redelivery_topics:
                self.send_back(record)

    async def settle(
        self, group: Checkpoint, processed: SourcePosition, may_apply: Callable[[], bool]
    ) -> bool:
        """Write a group to the store."""
        await asyncio.sleep(0)
        await self.may_settle.wait()
        if not may_apply():
            return False
        self.written += group.rows.items()
        for key, value in {**group.rows, **group.marks}.items():
            if value is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = value
        self.processed = processed
        return True

    # Records.

    def feed(
        self,
        *events: str,
        values: Mapping[str, bytes | None] | None = None,
        kind: bytes = b"test.Try",
    ) -> None:
        """Let an event arrive for each of *events*, `key:name`, with one of *values* if its name has one there."""
        first = len(self.source)
        for number, event in enumerate(events, first):
            key, _, name = event.partition(":")
            value = codec_of(Try).encode(Try(key=key, name=name or key))
            self.source.append(
                SimpleNamespace(
                    topic="t",
                    partition=0,
                    offset=number,
                    timestamp=int(EPOCH_S) * 1000,
                    key=key.encode() or None,
                    value=(values or {}).get(name, value),
                    headers=[("ce_id", event.encode()), ("ce_type", kind)],
                )
            )
        self._receive(self.source[first:])

    def send_back(self, record: ProducerRecord) -> None:
        """Let a record arrive through the topic that it is for, which notes when it was written."""
        log = self.back.setdefault(record.topic, [])
        log.append(read(replace(record, timestamp_ms=round(time.time() * 1000)), len(log)))
        self._receive_back(record.topic, log[-1:])

    def redrive(self, name: str, action: Action = "redrive") -> None:
        """Send the newest dead letter of an event back."""
        letter = next(r for r in reversed(self.sent) if r.topic == LETTERS and name_of(r) == name)
        self.send_back(outgoing(REDRIVE, returning(read(letter, 0), action, letter.value)))

    def _receive(self, records: Sequence[Any]) -> None:
        if records:
            self.processor.receive(Fetch(records))
            self.task_pool.wake(self.processor)

    def _receive_back(self, topic: str, records: Sequence[Any]) -> None:
        if records:
            self.processor.receive_redelivery(TP(topic, 0), Fetch(records))
            self.task_pool.wake(self.processor)

    # What became of them.

    async def until(self, done: Callable[[], bool]) -> None:
        """Let time go on until *done*, then let everything end that needs no time."""
        limit_s = self.clock.now + LIMIT_S
        while not done():
            assert self.clock.now < limit_s, f"it did not come: {self.calls[-5:]} {self.faults}"
            await asyncio.sleep(STEP_S)
        await asyncio.sleep(STEP_S)

    async def settled(self, offset: int) -> None:
        """Wait until everything below *offset* is settled."""
        await self.until(lambda: self.processor.checkpointed_offset == offset or bool(self.faults))

    @property
    def letters(self) -> list[Letter]:
        """The dead letters."""
        found = [
            (record, our_headers(record.headers)) for record in self.sent if record.topic == LETTERS
        ]
        return [
            Letter(
                name_of(record),
                ours["famulus-failure"].decode(),
                ours["famulus-handler"].decode().removeprefix("h."),
                int(ours["famulus-attempts"]),
            )
            for record, ours in found
        ]

    def names(self, handler: str = "") -> list[str]:
        """For what *handler*, or all of them, was called."""
        return [call.name for call in self.calls if handler in {"", call.handler}]

    def count(self, handler: str, name: str) -> int:
        """How often a handler's work for an event was kept."""
        return int(self.stored.get(row_key(handler, name.encode()), 0))

    def rows(self, kind: bytes) -> int:
        """How many rows of a kind are in the store."""
        return sum(key.startswith(kind) for key in self.stored)

    @property
    def marks(self) -> int:
        """How many events are remembered as handled."""
        return self.rows(MARK)


def read(record: ProducerRecord, offset: int) -> Any:
    """*record* as it is read again."""
    at = record.timestamp_ms if record.timestamp_ms is not None else 0
    return SimpleNamespace(
        topic=record.topic,
        partition=record.partition,
        offset=offset,
        timestamp=at,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def name_of(record: ProducerRecord) -> str:
    """The name of the event in a record."""
    key, _, name = dict(record.headers)["ce_id"].decode().partition(":")
    return name or key


@asynccontextmanager
async def trials(clock: Clock) -> AsyncIterator[Callable[..., Trial]]:
    """Makes trials and ends their workers."""
    made: list[Trial] = []

    def build(**options: Any) -> Trial:
        made.append(Trial(clock, **options))
        return made[-1]

    yield build
    for trial in made:
        await trial.kill()
