"""Workers of one partition, one after the other and at times two at once, on a log in memory."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import svcs
from faust.types import TP

from famulus.observability.metrics import Counts
from famulus.processing.checkpoint_loop import WorkerCallbacks
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import Dispatcher, EventTypes, handler_for
from famulus.processing.offset_tracker import start_offset
from famulus.processing.partition_processor import Limits, PartitionProcessor
from famulus.processing.pipeline import Pipeline
from famulus.processing.task_pool import TaskPool
from famulus.producer.event_bus import EventBus
from famulus.serialization.records import Delivery, ProducerRecord
from famulus.state.changelog import CLAIM, epoch_of
from famulus.state.dedupe import Dedupe
from famulus.state.manager import PartitionStateManager, StateSpec
from famulus.state.partition_state import PartitionState
from famulus.state.replica import Replica
from famulus.state.restore import Restorer
from famulus.state.unit_of_work import current_attempt
from tests.support.in_memory.deeds import Deeds
from tests.support.in_memory.failing import NEVER, NO_CLAIMS, failing_of
from tests.support.in_memory.house import Fetch
from tests.support.in_memory.log import TOPIC, Fold, Log, Wire, fold, kept
from tests.support.in_memory.scenario import ATTEMPTS, Deed, Plan, Scenario
from tests.support.in_memory.settling import MEMORY
from tests.support.in_memory.stored import MemoryStore

SOURCE = TP("t", 0)
TURNS_MAX = 20_000  # of the loop: more than any worker here needs


class Killed(asyncio.CancelledError):
    """The worker is no more: nothing catches it, nothing is said."""


class World:
    """What outlives workers: the log, their disks, what was published, the group's commit.

    *make_store*: on a disk.
    """

    def __init__(self, scenario: Scenario, make_store: Callable[[int], Any] | None = None) -> None:
        self.scenario = scenario
        self.log = Log()
        self.disks: list[dict[bytes, bytes]] = [{}, {}, {}]
        self.published: list[ProducerRecord] = []
        self.committed: int | None = None
        self.wrong: list[str] = []
        self.owner: Worker | None = None
        self.final: Fold | None = None  # what the last worker's store had
        self.make_store: Callable[[int], Any] = make_store or (
            lambda disk: MemoryStore(self.disks[disk])
        )

    async def run(self) -> None:
        """Let one worker after the other have the partition, until the last one is done with all of it."""
        workers: list[Worker] = []
        for plan in self.scenario.plans:
            self.owner = worker = Worker(self, plan)
            for other in workers:
                if other.plan.disk == plan.disk:  # a folder is locked by its process
                    await other.die()
            workers.append(worker)
            await worker.work()
            if not worker.is_replaced and plan is not self.scenario.plans[-1]:
                await worker.die()
        await self.settle_down(workers)
        self.final = kept(workers[-1].store) if self.scenario.remembers else None
        for worker in workers:
            await worker.die()

    async def settle_down(self, workers: "list[Worker]") -> None:
        """Let those that were replaced find out."""
        for _ in range(500):
            await asyncio.sleep(0)
        for worker in workers:
            if worker.wire.under_way:
                await asyncio.wait(worker.wire.under_way)

    async def restored(self, disk: int | None) -> Any:
        """What a worker has after restoring on a *disk*, None: on an empty one."""
        if disk is None:
            self.disks.append({})
            disk = len(self.disks) - 1
        worker = Worker(self, Plan(disk=disk))
        await worker.acquire()
        store = worker.store
        found = kept(store)
        await worker.die()
        return found


class InMemory(PartitionStateManager):
    """Holdings whose stores are the world's."""

    world: World
    disk: int

    def _replica(self, tp: TP) -> Replica | None:
        topic = self.remembered[tp.topic].topic
        return (
            None
            if topic is None
            else Replica(self._home(tp, topic), tp.topic, self.world.make_store(self.disk))
        )


class Worker:
    """One process: the engine from the state up to the crew."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world, self.plan = world, plan
        self.steps = 0
        self.is_dead = self.is_replaced = False
        self.epoch = 0
        self.store: Any = None
        self.faults: list[Exception] = []
        self.wire = Wire(
            world.log,
            world.published,
            plan.sendings,
            lambda: self.is_dead,
            is_lost_at_death=plan.is_lost_at_death,
        )
        self.partitions: dict[int, PartitionState] = {}
        self.processor: PartitionProcessor | None = None
        self.task_pool = TaskPool(4, self.fault)
        scenario = world.scenario
        self.dedupe = Dedupe(scenario.window_ms) if scenario.remembers else None
        self.deeds = Deeds(self.partitions, self.step, world.wrong, remembers=scenario.remembers)
        tables: Any = {"sums": self.deeds.sums, "trail": self.deeds.trail}
        topic = TOPIC if scenario.remembers else None
        folder: Any = SimpleNamespace(tidy=lambda *_: None)
        reader: Any = world.log
        self.state_manager = InMemory(
            {"t": StateSpec(topic, self.dedupe, tables, self.partitions)},
            folder,
            MEMORY,
            reader,
            self.wire,
            Restorer(reader, self.wire, 24),
            scenario.group_bytes,
            24,
            self.step,
        )
        self.state_manager.world, self.state_manager.disk = world, plan.disk

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.is_dead or bool(self.faults)

    async def acquire(self) -> None:
        """Restore and claim."""
        assert await self.state_manager.acquire([SOURCE], [], lambda: True)
        self.store = self.partitions[0].store
        self.epoch = self.store.epoch if self.store is not None else 0

    async def work(self) -> None:
        """Have the partition until the plan says otherwise. What fails ends it."""
        try:
            await self.acquire()
        except OSError:
            self.is_dead = True
            return
        held = self.state_manager.held[SOURCE]
        scenario = self.world.scenario
        end = len(scenario.records)
        processed = held.partition.processed
        start = self.world.committed or 0
        if processed is not None:
            start = start_offset(
                processed.next_offset, self.world.committed, 0, end, "ignore"
            ).offset
        ties = WorkerCallbacks(lambda: True, self.publish, self.fault, self.step)
        limits = Limits(4, 12, 100_000, scenario.chunk)
        self.processor = processor = PartitionProcessor(
            SOURCE,
            self.pipeline(),
            held.partition,
            checkpointer=held.checkpointer,
            limits=limits,
            ties=ties,
            on_room=self.task_pool.wake,
        )
        for at in range(start, end, 10):
            processor.receive(Fetch(scenario.records[at : min(at + 10, end)]))
        self.task_pool.wake(processor)
        for _ in range(TURNS_MAX):
            if self.is_over or self.is_replaced or self.is_done(processor, start, end):
                break
            await asyncio.sleep(0)
            self.commit(processor)
        else:
            self.world.wrong.append("stuck")

    @staticmethod
    def is_done(processor: PartitionProcessor, start: int, end: int) -> bool:
        """Whether all of the source is settled."""
        return start >= end or (
            processor.offsets.next_offset == end
            and not processor.lanes.held
            and processor.state.next_to_settle() is None
        )

    def commit(self, processor: PartitionProcessor) -> None:
        """Commit what is settled; the group takes no commit of a worker that was replaced."""
        if self.world.owner is not self or processor.checkpointed_offset is None or self.is_dead:
            return
        self.world.committed = processor.checkpointed_offset
        if (
            self.world.scenario.remembers
            and processor.checkpointed_offset > fold(self.world.log).processed.next_offset
        ):
            self.world.wrong.append("committed what is not settled")

    def pipeline(self) -> Pipeline:
        """The real one, with two handlers."""
        dispatcher = Dispatcher(svcs.Registry(), EventBus(SimpleNamespace(), current_attempt))  # type: ignore[arg-type]
        policy = Policy(Retry(ATTEMPTS, 0.0))
        deeds = self.deeds

        async def first(event: Deed, delivery: Delivery) -> None:
            await deeds.first(event, delivery)

        async def second(event: Deed, delivery: Delivery) -> None:
            await deeds.second(event, delivery)

        for handler in (first, second):
            dispatcher.add(handler_for(Deed, handler, policy, NEVER))
        counts = Counts()
        return Pipeline(
            EventTypes("t", [Deed]),
            dispatcher,
            self.dedupe,
            self.dedupe,
            counts,
            "ignore",
            failing_of(counts),
            NO_CLAIMS,
        )

    # What it is told.

    async def publish(self, records: Any) -> None:
        """Publish a group's events."""
        await self.wire.send_all(records)

    async def fault(self, error: Exception) -> None:
        """What ends the worker."""
        self.faults.append(error)
        self.is_dead = True

    def step(self, name: str) -> None:
        """One more step. Raises Killed when it is the last one."""
        self.steps += 1
        if name == "written" and any(
            e.key == CLAIM and epoch_of(e.headers) > self.epoch for e in self.ours()
        ):
            self.world.wrong.append("a worker settled after another one had claimed")
        if self.steps == self.plan.end_at:
            self.is_replaced = self.plan.is_replaced
            self.is_dead = self.is_dead or not self.is_replaced
        if self.is_dead:
            raise Killed

    def ours(self) -> list[Any]:
        """What the log has up to where our store stands."""
        return [entry for entry in self.world.log.entries if entry.offset <= self.store.position]

    async def die(self) -> None:
        """End all of it at once."""
        self.is_dead = True
        await self.task_pool.stop()
        if self.processor is not None:
            self.processor.abandon()
            task = self.processor.checkpoint_loop.task
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self.state_manager.release()
