"""Faults of stock Faust's consumer that a broker shows only by chance, compared with this engine.

Both consumers use the same substitute for their thread, which is all that they see of Kafka.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.transport.consumer import Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

from famulus.config import KafkaConfig
from famulus.consumer.assignment import AssignedPartitions
from famulus.consumer.hold_ups import HoldUpNotes
from famulus.consumer.seek_executor import SeekExecutor
from famulus.consumer.transport import Transport
from famulus.control.admin_topic import AdminLog
from famulus.control.control_state import ControlState
from famulus.control.seeks import Seeks
from famulus.processing.partition_processor import Limits, PartitionProcessor
from famulus.producer.producer import Producer
from famulus.runtime.worker_process import Worker
from famulus.serialization.records import ProducerRecord
from famulus.state.identity import CommitNote
from famulus.state.manager import OwnedPartition
from famulus.state.partition_state import PartitionState
from tests.support.in_memory.house import Carrier

PLACE = TP("events", 0)


class Thread:
    """Kafka as seen through a consumer's thread.

    There is one partition with three records, and a group that has never committed.
    """

    def __init__(self) -> None:
        self.position = 0
        self.commits: list[Mapping[TP, int]] = []
        self.uncommitted: set[TP] = set()
        self.commit_works = True
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.may_fetch = asyncio.Event()
        self._consumer = SimpleNamespace(_coordinator=SimpleNamespace(_do_heartbeat=None))

    def assignment(self) -> set[TP]:
        """Return the only partition."""
        return {PLACE}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Record the offsets, and return whether the commit works."""
        self.commits.append(offsets)
        await self.may_commit.wait()
        return self.commit_works

    # Called by Faust.
    async def getmany(self, partitions: set[TP], timeout: float) -> dict[TP, list[None]]:
        """Return the three records, whose contents do not matter."""
        await self.may_fetch.wait()
        self.position = 3
        return {PLACE: [None] * 3}

    async def seek_to_committed(self) -> dict[TP, None]:
        """Move nothing, as aiokafka does if nothing is committed."""
        return {PLACE: None}

    async def commit_notes(self, partitions: Collection[TP]) -> dict[TP, CommitNote]:
        """Return no notes, because nothing was committed."""
        return {}

    def seek(self, partition: TP, offset: int) -> None:
        """Move the position."""
        self.position = offset

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        """Return 0, where the log begins."""
        return dict.fromkeys(partitions, 0)

    async def highwaters(self, *partitions: TP) -> dict[TP, int]:
        """Return 0, where the log ends."""
        return dict.fromkeys(partitions, 0)


class Stock:
    """The consumer of stock Faust."""

    def __init__(self) -> None:
        self.thread = Thread()
        self.app: Any = faust.App(  # Any: private parts
            "stock", broker="kafka://nowhere", consumer_auto_offset_reset="earliest"
        )
        self.app.topics.acking_topics.add(PLACE.topic)
        self.consumer = self._consumer(driver.Transport)

    def _consumer(self, transport: type[driver.Transport]) -> Any:  # Any: private parts
        async def nothing(*_: object) -> None:
            """Do nothing, in place of the app's callbacks."""

        consumer: Any = transport.Consumer(
            transport([], self.app),
            callback=nothing,
            on_partitions_revoked=nothing,
            on_partitions_assigned=nothing,
            loop=asyncio.get_running_loop(),
        )
        consumer._thread = self.thread
        consumer._set_active_tps({PLACE})
        return consumer

    async def publish_without_an_answer(self) -> None:
        """Handle the record at offset 0, which sends two records that Kafka never acknowledges."""

        async def unanswered(_: object) -> None:
            await asyncio.Event().wait()

        buffer = self.app.producer.buffer
        buffer._send_pending = unanswered
        await buffer.start()
        buffer.put("one that is on its way")
        buffer.put("one that waits for it")
        self.finish()

    def finish(self, offset: int = 0) -> None:
        """Finish the record at *offset*."""
        self.consumer.ack(Message(PLACE.topic, 0, offset, 0.0, 0, None, None, b"", None, tp=PLACE))

    async def fetch(self) -> None:
        """Fetch once, as the fetcher does."""
        async for _ in self.consumer.getmany(timeout=1.0):
            pass


class Ours(Stock):
    """The engine's consumer, with a partition processor."""

    def __init__(self) -> None:
        super().__init__()
        self.may_settle = asyncio.Event()
        self.app.assigned = AssignedPartitions(
            Limits(1, 100, 10_000, 100),
            1,
            {},
            may_write=lambda: True,
            publish=self.publish,
            on_fault=self.fault,
            probe=lambda _: None,
        )
        self.app.pipelines = {PLACE.topic: Carrier(self.handle)}
        self.app.on_commit_ahead = "ignore"
        self.consumer = self._consumer(Transport)
        held = OwnedPartition(PartitionState(PLACE.partition, None, 1000), None)

        async def adopt() -> None:
            """Do nothing, because no partition has state."""

        async def epoch_ends() -> dict[TP, int]:
            """Return nothing, as if no leader epoch were known."""
            return {}

        self.app.state_manager = SimpleNamespace(
            held={PLACE: held}, anew=set(), adopt=adopt, epoch_ends=epoch_ends
        )
        admin_log, sender = (
            AdminLog(KafkaConfig(), ControlState(), lambda: None, self.fault),
            Producer(KafkaConfig()),
        )
        self.app.seek_executor = SeekExecutor(Seeks(), admin_log, sender, "stock")
        self.app.holdups = HoldUpNotes(
            self.app.assigned.control_state.holdups, sender, "stock", lambda: True
        )
        self.app.assigned.open({PLACE: (self.app.pipelines[PLACE.topic], held, 0)})
        self.app.is_managed = lambda topic: topic in self.app.pipelines

    async def handle(self, work: Any) -> None:
        """Do nothing, because the tests finish records by themselves."""

    async def fault(self, error: Exception) -> None:
        """Raise the error that would end the worker."""
        raise error

    async def publish(self, _: object) -> None:
        """Wait for Kafka's acknowledgement."""
        await self.may_settle.wait()

    @property
    def processor(self) -> PartitionProcessor:
        """The partition processor."""
        processor: PartitionProcessor = self.app.assigned.processors[PLACE]
        return processor

    async def publish_without_an_answer(self) -> None:
        """Handle the record at offset 0, which publishes a record that is never acknowledged."""
        self.processor.state.filling.outbox.append(ProducerRecord("elsewhere", None, b""))
        self.finish()
        await asyncio.sleep(0.2)

    def finish(self, offset: int = 0) -> None:
        """Finish the record at *offset*."""
        self.processor.offsets.received([offset])
        record: Any = SimpleNamespace(offset=offset)
        self.processor.ended((None, record, None, 0, b"", None, -1), "handled")
        self.processor.turn_ended()

    async def fetch(self) -> None:
        """Fetch once, as the fetcher does."""
        await self.consumer._fetch()


@pytest.mark.parametrize(("make", "commits"), [(Ours, 2), (Stock, 1)])
async def test_a_commit_that_failed_is_made_again(make: type[Stock], commits: int) -> None:
    """Stock Faust counts it as done (faust-streaming #316).

    The offset then stays behind until another event ends.
    """
    system = make()
    system.finish()
    system.thread.commit_works = False
    await system.consumer.commit()
    system.thread.commit_works = True
    await system.consumer.commit()
    assert system.thread.commits == [{PLACE: 1}] * commits


@pytest.mark.parametrize(
    ("make", "commits"), [(Ours, [{PLACE: 1}, {PLACE: 2}]), (Stock, [{PLACE: 1}])]
)
async def test_what_ends_during_a_commit_is_committed_by_the_next(
    make: type[Stock], commits: list[Mapping[TP, int]]
) -> None:
    """Stock Faust takes a running commit for the last one of a stop.

    The event is then handled again.
    """
    system = make()
    system.finish()
    system.thread.may_commit.clear()
    under_way = asyncio.create_task(system.consumer.commit())
    await asyncio.sleep(0.01)
    system.finish(1)
    last = asyncio.create_task(system.consumer.commit())
    await asyncio.sleep(0.01)
    system.thread.may_commit.set()
    await asyncio.gather(under_way, last)
    assert system.thread.commits == commits


@pytest.mark.parametrize(("make", "commits"), [(Ours, []), (Stock, [{PLACE: 1}])])
async def test_nothing_is_committed_before_what_it_published_is_acknowledged(
    make: type[Stock], commits: list[Mapping[TP, int]]
) -> None:
    """Stock Faust waits 0.1 s for its producer, and then commits without acknowledgement."""
    system = make()
    await system.publish_without_an_answer()
    await system.consumer.commit()
    assert system.thread.commits == commits


@pytest.mark.parametrize(("make", "position"), [(Ours, 0), (Stock, 3)])
async def test_records_that_are_fetched_while_a_rebalance_begins_are_read_again(
    make: type[Stock], position: int
) -> None:
    """Stock Faust drops the records and relies on aiokafka to go back.

    A new group has no commit to go back to. A broker does not show this, because the fetch must
    return between two steps of the rebalance.
    """
    system = make()
    fetching = asyncio.create_task(system.fetch())
    await asyncio.sleep(0)
    system.consumer.stop_flow()
    system.thread.may_fetch.set()
    await fetching
    assert system.thread.position == 3
    await system.consumer.perform_seek()
    system.consumer.resume_flow()
    assert system.thread.position == position


@pytest.mark.parametrize("make", [Ours, Stock])
async def test_a_stop_in_the_middle_of_a_rebalance_is_no_crash(make: type[Stock]) -> None:
    """Otherwise a supervisor that has ended would restart the fetcher.

    The stopped worker would then exit with status 1.
    """
    system = make()
    system.app._consumer = system.consumer
    fetcher: Any = Fetcher(system.app)
    fetching = asyncio.ensure_future(Fetcher._fetcher.fun(fetcher))
    await asyncio.sleep(0)
    system.app.rebalancing = True
    system.app._stopped.set()
    fetching.cancel()
    await fetching


@pytest.mark.parametrize(
    ("worker", "level"), [(Worker, logging.WARNING), (faust.Worker, logging.DEBUG)]
)
async def test_what_is_not_logged_is_not_made(worker: type[faust.Worker], level: int) -> None:
    """At the level `warn` stock Faust creates every debug record of every library.

    The records only turn a spinner.
    """
    root = logging.Logger("root", logging.WARNING)  # noqa: LOG001  # not the one of the tests
    root.addHandler(logging.NullHandler())
    made = worker(faust.App("stock", broker="kafka://nowhere"), loglevel="warn")
    made.on_setup_root_logger(root, logging.WARNING)
    assert root.level == level


async def test_a_position_that_is_being_reset_ends_no_worker() -> None:
    """Faust checks the progress of partitions now and then, and reads missing positions."""
    consumer: Any = Ours().consumer
    consumer.assignment = lambda: {PLACE}
    await consumer.verify_all_partitions_active()
