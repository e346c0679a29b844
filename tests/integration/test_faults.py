"""Workers that join, leave, die, freeze, and a broker that goes away, all under load.

Handlers note what they do in a file outside of any worker; the promise is checked against that
ledger: nothing lost, order per key kept, no two records of a key at once, nothing committed that
was not finished. `FAULT_ROUNDS` says how often each fault is made (`make chaos`: 20).
"""

import asyncio
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from famulus.config import KafkaConfig
from famulus.dev.broker import Broker
from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord
from tests.integration.conftest import settings_of, settle_all

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))
KEYS = 40
SESSION_S = 6.0
MODEL = '''
from famulus import Event


class Step(Event, namespace="steps.Step", topic="steps", key="key"):
    """One step of a key's way."""

    key: str
    number: int
'''
AGENT = """
import asyncio
import os
import random
from pathlib import Path

from app import Deliveries, Delivery, app, handles
from models.orders import Step

steps = app.subscription("steps", dedupe=False)
ledger = os.open(Path(__file__).parent.parent / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@app.agent(steps)
async def step_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()


@handles(Step)
async def note(step: Step, delivery: Delivery) -> None:
    line = f"{os.getpid()} {step.key} {step.number} {delivery.partition} {delivery.offset}\\n"
    os.write(ledger, f"begin {line}".encode())
    if random.random() < 0.7:
        await asyncio.sleep(random.random() * 0.004)
    os.write(ledger, f"end {line}".encode())
"""


class Entry(NamedTuple):
    """One line of the ledger."""

    what: str
    pid: int
    key: str
    number: int
    partition: int
    offset: int


class Load:
    """A thread that sends the steps of every key in turn, a few hundred a second, until it is stopped."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.sent = 0
        self._kafka = kafka
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()))

    def start(self) -> None:
        """Begin; the first steps are sent when this returns."""
        self._thread.start()
        while not self.sent:
            assert self._thread.is_alive(), "nothing could be sent"
            time.sleep(0.05)

    def stop(self) -> None:
        """End, when everything that was begun is sent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    async def _send(self) -> None:
        async with Producer(self._kafka) as producer:
            while not self._stopping.is_set():
                chunk = [step(self._kafka, number) for number in range(self.sent, self.sent + 50)]
                await producer.send_all(chunk)
                self.sent += len(chunk)
                await asyncio.sleep(0.1)


def step(kafka: KafkaConfig, number: int) -> ProducerRecord:
    """The *number*-th step of all."""
    key = f"key-{number % KEYS}"
    value = b'{"key":"%s","number":%d}' % (key.encode(), number // KEYS)
    return ProducerRecord(kafka.topic("steps"), key.encode(), value)


class Stage:
    """A broker of its own, a checkout with the noting handler, workers, and the load."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        base = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, partitions=6)
        consumer = base.consumer_config.model_copy(
            update={"session_timeout_ms": int(SESSION_S * 1000)}
        )
        self.kafka = base.model_copy(update={"consumer_config": consumer})
        self.broker = broker
        self.workers: list[WorkerProcess] = []
        self.load = Load(self.kafka)
        self._folder = folder
        self._started = 0
        asyncio.run(create_topics(self.kafka, {"steps": 6, "steps.dead-letter": 6}, 30))

    def join(self) -> WorkerProcess:
        """Start one more worker."""
        self._started += 1
        settings = settings_of(self.kafka, self._folder / f"state-{self._started}")
        worker = WorkerProcess(
            settings, self._folder / f"log-{self._started}", web_port=free_port(), cwd=self._folder
        )
        worker.start()
        self.workers.append(worker)
        return worker

    def wait_all_assigned(self) -> None:
        """Wait until every partition has a worker that is ready."""
        deadline = time.monotonic() + 60
        owned: set[str] = set()
        while len(owned) < 6:
            assert time.monotonic() < deadline, f"only {sorted(owned)} are assigned"
            owned = set()
            for worker in self.workers:
                try:
                    [subscription] = worker.get("/subscriptions/")
                    owned |= set(subscription["next_offsets"])
                except OSError:
                    worker.check()
            time.sleep(0.2)

    def entries(self) -> list[Entry]:
        """What the handlers noted so far."""
        lines = (self._folder / "ledger").read_text().splitlines()
        return [
            Entry(a, int(b), c, int(d), int(e), int(f))
            for a, b, c, d, e, f in map(str.split, lines)
        ]

    def check_commits(self) -> None:
        """Everything below the committed offsets was finished."""

        async def committed() -> dict[int, int]:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)
            await admin.start()
            try:
                offsets = await admin.list_consumer_group_offsets(
                    self.kafka.consumer_config.group_id
                )
            finally:
                await admin.close()
            return {
                tp.partition: known.offset
                for tp, known in offsets.items()
                if isinstance(tp, TopicPartition)
            }

        found = asyncio.run(committed())
        ended = {(entry.partition, entry.offset) for entry in self.entries() if entry.what == "end"}
        ahead = [(p, o) for p, end in found.items() for o in range(end) if (p, o) not in ended]
        assert not ahead, f"committed before it was finished: {ahead[:5]}"

    def check(self) -> None:
        """Stop the load, let everything settle, and hold the ledger against the promise."""
        self.load.stop()
        settle_all(self.kafka, ["steps"], expected=self.load.sent, timeout_s=120)
        self.check_commits()
        entries = self.entries()
        ended = {(e.key, e.number) for e in entries if e.what == "end"}
        lost = {(f"key-{n % KEYS}", n // KEYS) for n in range(self.load.sent)} - ended
        reordered = overlapping = 0
        newest: dict[str, int] = defaultdict(lambda: -1)
        at_work: dict[str, Entry] = {}
        for entry in entries:
            if entry.what == "end":
                if at_work.get(entry.key, entry)[1:] == entry[1:]:
                    at_work.pop(entry.key, None)
                continue
            before = at_work.get(entry.key)
            # One worker never has two records of a key in hand; a dead or frozen one may have left
            # one open.
            overlapping += before is not None and before.pid == entry.pid
            at_work[entry.key] = entry
            reordered += entry.number > newest[entry.key] + 1
            newest[entry.key] = max(newest[entry.key], entry.number)
        begun = sum(entry.what == "begin" for entry in entries)
        print(  # what it is about
            f"{self.load.sent} sent, lost {len(lost)}, reordered {reordered}, "
            f"overlapping {overlapping}, handled again {begun - self.load.sent}"
        )
        assert (len(lost), reordered, overlapping) == (0, 0, 0)


@contextmanager
def a_stage(checkout: Path) -> Iterator[Stage]:
    """Set it up, and clear it away."""
    (checkout / "agents/stock.py").unlink()
    (checkout / "models/stock.py").unlink()
    (checkout / "agents/orders.py").write_text(AGENT)
    (checkout / "models/orders.py").write_text(MODEL)
    with Broker() as broker:
        stage = Stage(broker, checkout)
        try:
            yield stage
        finally:
            stage.load.stop()
            for worker in stage.workers:
                if worker.exit_code() is None:
                    worker.signal(signal.SIGCONT)
                worker.stop()


@pytest.fixture
def stage(checkout: Path) -> Iterator[Stage]:
    """Two workers under load, each with partitions: one that is frozen while it starts ends, as it should."""
    with a_stage(checkout) as made:
        for worker in (made.join(), made.join()):
            worker.wait_ready()
        made.wait_all_assigned()
        made.load.start()
        yield made


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_workers_that_join_and_leave(stage: Stage) -> None:
    """Partitions are drained and handed over, every time."""
    for _ in range(ROUNDS):
        stage.join()
        stage.wait_all_assigned()
        time.sleep(1)
        assert stage.workers.pop(0).stop() == 0
        stage.wait_all_assigned()
        stage.check_commits()
    stage.check()


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_workers_that_are_killed(stage: Stage) -> None:
    """What was in hand is handled again by whoever has the partition next."""
    for _ in range(ROUNDS):
        victim = stage.workers.pop(random.randrange(2))  # chance, not secrets
        victim.signal(signal.SIGKILL)
        victim.stop()
        stage.join()
        stage.wait_all_assigned()
        time.sleep(1)
        stage.check_commits()
    stage.check()


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_a_worker_that_freezes_longer_than_its_session(stage: Stage) -> None:
    """It wakes up without its partitions: it commits and writes nothing for them, and takes part again."""
    for number in range(ROUNDS):
        frozen = stage.workers[number % 2]
        frozen.signal(signal.SIGSTOP)
        time.sleep(SESSION_S + 4)
        frozen.signal(signal.SIGCONT)
        time.sleep(1)
        stage.wait_all_assigned()
        stage.check_commits()
    stage.check()


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_a_broker_that_is_stopped_and_started(stage: Stage) -> None:
    """The workers wait for it, and go on."""
    for _ in range(ROUNDS):
        [node] = stage.broker.nodes
        node.kill()
        time.sleep(3)
        stage.broker.restart(node)
        time.sleep(2)
        stage.wait_all_assigned()
        stage.check_commits()
    stage.check()
