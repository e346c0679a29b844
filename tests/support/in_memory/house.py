"""A crew and its flows, with stand-ins for the pipeline and for what settles: they note what happens."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

from faust.types import TP

from famulus.observability.metrics import Counts
from famulus.processing.checkpoint_loop import WorkerCallbacks
from famulus.processing.partition_processor import Limits, PartitionProcessor
from famulus.processing.task_pool import TaskPool
from famulus.serialization.records import Outcome, ProducerRecord
from famulus.state.changelog import SourcePosition
from famulus.state.partition_state import Checkpoint, PartitionState

Handler = Callable[[Any], Awaitable[None]]


def record(offset: int, key: str, timestamp: int = 0) -> Any:
    """A record as it comes from Kafka."""
    return SimpleNamespace(
        topic="t",
        partition=0,
        offset=offset,
        timestamp=timestamp,
        key=key.encode(),
        value=b"v",
        headers=(),
    )


class Fetch:
    """Stands for what a fetch brought.

    *next_offset* is further than the last record where others end it.
    """

    leader_epoch = -1

    def __init__(self, records: Sequence[Any], next_offset: int = 0) -> None:
        self._records = records
        self.next_offset = next_offset or records[-1].offset + 1

    def records(self, limit: int) -> Iterator[list[Any]]:
        """The records, *limit* at a time."""
        waiting = iter(self._records)
        while records := list(islice(waiting, limit)):
            yield records


class Carrier:
    """Stands for the pipeline: runs *handler*; a record whose key begins with `!` publishes an event."""

    redelivery_topics: tuple[str, ...] = ()

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.counts = Counts()

    def redelivery_wait_ms(self, topic: str) -> int:
        """Any time: nothing here comes back."""
        return 0

    def works_of(
        self, records: Iterable[Any], state: PartitionState, stream_ms: Iterable[int]
    ) -> Iterator[Any]:
        """Just the records, each in the lane of its key."""
        return ((record.key, record, None, 0, b"", None, -1) for record in records)

    has_types = False

    def label_of(self, record: Any) -> str:
        """The only type that there is."""
        return "Thing"

    def note(self, outcome: Outcome, count: int = 1) -> None:
        """Count them."""
        self.counts[outcome] += count

    async def carry(self, work: Any, state: PartitionState) -> str:
        """Run the handler."""
        of = work[1]
        await self.handler(SimpleNamespace(record=of, past=work[2]))
        if of.key.startswith(b"!"):
            state.filling.outbox.append(ProducerRecord("t", None, b"%d" % of.offset))
        return "handled"


class House:
    """A crew and one flow for each partition.

    *remembers*: every record ends in a group that `settle` makes durable; else only one that
    published anything does.
    """

    unwritten = ""  # as of a settler whose disk takes all

    def __init__(
        self, handler: Handler, concurrency: int, partitions: int, *, remembers: bool
    ) -> None:
        self.faults: list[Exception] = []
        self.is_member = True
        self.task_pool = TaskPool(concurrency, self.fault)
        self.carrier = Carrier(handler)
        self.may_settle = asyncio.Event()
        self.may_settle.set()
        self.settle_error: Exception | None = None
        self.steps: list[str] = []
        self.settled: list[SourcePosition] = []
        self.limits = Limits(lanes=concurrency, records=100, bytes=10_000, chunk=7)
        self.remembers = remembers
        self.processors = [self.processor(PartitionState(n, None, 1000)) for n in range(partitions)]

    def processor(self, state: PartitionState) -> PartitionProcessor:
        """A flow for *state*."""
        ties = WorkerCallbacks(lambda: self.is_member, self.publish, self.fault, self.steps.append)
        checkpointer: Any = self if self.remembers else None
        carrier: Any = self.carrier
        return PartitionProcessor(
            TP("t", state.number),
            carrier,
            state,
            checkpointer=checkpointer,
            limits=self.limits,
            ties=ties,
            on_room=self.task_pool.wake,
        )

    async def publish(self, records: Sequence[ProducerRecord]) -> None:
        """Note which records published."""
        if not self.remembers:
            await self._settle()
        self.steps.append(
            "publish " + " ".join((record.value or b"").decode() for record in records)
        )

    async def settle(
        self, group: Checkpoint, processed: SourcePosition, may_apply: Callable[[], bool]
    ) -> bool:
        """Note how far the partition is, and which offsets were settled together."""
        await self._settle()
        if not may_apply():
            return False
        self.steps.append("settle " + " ".join(str(offset) for offset in sorted(group.offsets())))
        self.settled.append(processed)
        return True

    async def _settle(self) -> None:
        await self.may_settle.wait()
        if self.settle_error is not None:
            raise self.settle_error

    async def fault(self, error: Exception) -> None:
        """What would end the worker."""
        self.faults.append(error)

    def feed(self, processor: PartitionProcessor, keys: str) -> None:
        """Let one record for each word of *keys* arrive."""
        self.fetch(
            processor,
            [record(processor.position + number, key) for number, key in enumerate(keys.split())],
        )

    def fetch(
        self, processor: PartitionProcessor, records: Sequence[Any], next_offset: int = 0
    ) -> None:
        """Let *records* arrive, and what is no record up to *next_offset*."""
        processor.receive(Fetch(records, next_offset))
        self.task_pool.wake(processor)

    async def until(self, done: Callable[[], bool]) -> None:
        """Let the loop run until *done*."""
        async with asyncio.timeout(10):
            while not done():  # many things may bring it about
                await asyncio.sleep(0)


@asynccontextmanager
async def houses() -> AsyncIterator[Callable[..., House]]:
    """Makes houses and stops their crews."""
    made: list[House] = []

    def build(
        handler: Handler, concurrency: int = 10, partitions: int = 1, *, remembers: bool = False
    ) -> House:
        made.append(House(handler, concurrency, partitions, remembers=remembers))
        return made[-1]

    yield build
    for house in made:
        await house.task_pool.stop()


class Gate:
    """A handler that waits until its key is let through."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.doors: dict[str, asyncio.Event] = {}

    async def __call__(self, work: Any) -> None:
        """Wait at the door of the key, if it has one."""
        key = work.record.key.decode()
        self.began.append(f"{key}{work.record.offset}")
        if key in self.doors:
            await self.doors[key].wait()

    def close(self, *keys: str) -> None:
        """Make doors."""
        self.doors |= {key: asyncio.Event() for key in keys}


async def turns(count: int = 20) -> None:
    """Let everything on the loop go on for some turns."""
    for _ in range(count):
        await asyncio.sleep(0)
