"""Two systems under one test: this worker, and stock Faust as its documentation has it.

Both run the same code for each event and note what it does in one file outside of any process. Both
take their settings from the same environment.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.group import LeaveGroupRequest

from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from famulus.serialization.records import ProducerRecord
from tests.integration.test_worker import read_all, send
from tests.support.on_kafka.system_sources import AGENT, MODEL, STOCK, WORK


class Noted(NamedTuple):
    """One line of the ledger."""

    what: str
    pid: int
    name: str


def happened(name: str) -> bytes:
    """The value of the event with this name."""
    return b'{"name":"%s"}' % name.encode()


class System:
    """One of the two, in a folder of its own."""

    def __init__(
        self, name: str, folder: Path, kafka: KafkaConfig, start: Callable[..., WorkerProcess]
    ) -> None:
        self.is_stock = name == "stock"
        self.folder = folder
        self._kafka = kafka
        self._start = start
        self._workers: list[WorkerProcess] = []
        (folder / "work.py").write_text(WORK)
        if self.is_stock:
            (folder / "stock_app.py").write_text(STOCK)
            return
        for file in ("agents/orders.py", "agents/stock.py", "models/orders.py", "models/stock.py"):
            (folder / file).unlink()
        (folder / "agents/things.py").write_text(AGENT)
        (folder / "models/things.py").write_text(MODEL)

    def start(
        self, name: str = "one", *, concurrency: int = 1, commit_interval_s: float = 0.2
    ) -> WorkerProcess:
        """Start a worker.

        *concurrency* is what each system calls so; wait for what it notes, not for the start.
        """
        worker = self._start(
            name,
            ready=0,
            cwd=self.folder,
            app="stock_app" if self.is_stock else "app",
            WORKER__CONCURRENCY=str(concurrency),
            WORKER__COMMITINTERVALS=str(commit_interval_s),
            KAFKA__CONSUMERCONFIG__HEARTBEATINTERVALMS="300",
        )
        self._workers.append(worker)
        return worker

    def kill(self, worker: WorkerProcess) -> None:
        """End a worker without warning, and spare the test the session timeout: the group is told who is dead."""
        worker.signal(signal.SIGKILL)
        worker.stop()
        asyncio.run(_forget_members(self._kafka))

    def end(self) -> None:
        """Kill what still runs: an orderly stop takes seconds and is not what this is about."""
        for worker in self._workers:
            if worker.exit_code() is None:
                worker.signal(signal.SIGKILL)

    def wake(self) -> None:
        """Let events that sleep end, from the next attempt on."""
        (self.folder / "awake").touch()

    def send(self, *values: bytes | None, partition: int = 0) -> None:
        """Send records; their values are their keys, so that all have different ones."""
        send(
            self._kafka,
            [
                ProducerRecord(self._kafka.topic("things"), value, value, (), partition)
                for value in values
            ],
        )

    def send_in_transaction(self, *values: bytes) -> None:
        """Send records to partition 0, and wait until the marker stands behind them: Kafka writes it later."""
        servers, place = (
            self._kafka.bootstrap_servers,
            TopicPartition(self._kafka.topic("things"), 0),
        )

        async def run() -> None:
            producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=str(uuid4()))
            async with producer, AIOKafkaConsumer(bootstrap_servers=servers) as reader:
                async with producer.transaction():
                    for value in values:
                        sent = await producer.send_and_wait(
                            place.topic, value, value, partition=place.partition
                        )
                # Only asking tells.
                while (await reader.end_offsets([place]))[place] < sent.offset + 2:
                    await asyncio.sleep(0.05)

        asyncio.run(run())

    def noted(self, what: str) -> list[Noted]:
        """What was noted under this word, the oldest first."""
        ledger = self.folder / "ledger"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        every = [Noted(word, int(pid), name) for word, pid, name in map(str.split, lines)]
        return [noted for noted in every if noted.what == what]

    def wait_noted(self, what: str, *names: str, timeout_s: float = 30.0) -> None:
        """Wait until all *names* have been noted under this word. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while missing := set(names) - {noted.name for noted in self.noted(what)}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {what} of {sorted(missing)}")
            time.sleep(0.05)

    def check_kept(self, values: Sequence[bytes | None]) -> None:
        """Assert that each record of *values* was handled to its end or is a dead letter, bytes unchanged."""
        handled: set[bytes | None] = {happened(noted.name) for noted in self.noted("end")}
        dead = {letter.value for letter in read_all(self._kafka, "things.dead-letter")}
        lost = [value for value in values if value not in handled | dead]
        assert not lost, f"neither handled nor set aside: {lost}"

    @contextmanager
    def stock_breaks(self, match: str) -> Iterator[None]:
        """What is asserted here holds for ours.

        Stock Faust must fail in the words of *match*, or the test fails.
        """
        if self.is_stock:
            with pytest.raises(AssertionError, match=match):
                yield
        else:
            yield


def set_record_bytes_max(kafka: KafkaConfig, topic: str, limit: int) -> None:
    """Have *topic* refuse records that are larger than *limit* bytes."""

    async def run() -> None:
        place = ConfigResource(
            ConfigResourceType.TOPIC, kafka.topic(topic), {"max.message.bytes": str(limit)}
        )
        async with _admin(kafka) as admin:
            [answer] = await admin.alter_configs([place])
        assert [code for code, *_ in answer.resources] == [0]

    asyncio.run(run())


async def _forget_members(kafka: KafkaConfig) -> None:
    group = kafka.consumer_config.group_id
    async with _admin(kafka) as admin:
        node = await admin.find_coordinator(group)
        [described] = await admin.describe_consumer_groups([group])
        [(_, _, _, _, _, members, *_)] = described.groups
        for member_id, *_ in members:
            await admin._send_request(LeaveGroupRequest(group, member_id), node)


@asynccontextmanager
async def _admin(kafka: KafkaConfig) -> AsyncIterator[Any]:  # Any: aiokafka is untyped
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
