"""What the state tests share: a checkout with one subscription of the test's own, its events, its changelog, its log.

The subscription reads the topic `things`; a test says what its handlers do.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.protocol.group import LeaveGroupRequest

from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.kafka.log_reader import log_consumer
from famulus.producer.producer import Producer
from famulus.producer.results import Published
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import Logged
from famulus.state.changelog_topic import LogReader
from famulus.state.rocksdb_store import Memory, Store

LIMIT_S = 30.0
SESSION_S = 6
TOPIC = "things"
MODEL = """
from famulus import Event


class Thing(Event, namespace="things.Thing", topic="things", key="key"):
    key: str
    number: int = 0
    note: str = ""
"""
AGENT = """
import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import app as front
from app import Deliveries, Delivery, Retry, app, handles
from models.things import *

things = app.subscription("things"{options})
count = things.Table("count", key=str, value=int, default=int)


@app.agent(things)
async def thing_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()

{handlers}
"""
COUNTING = """
@handles(Thing)
async def note(thing: Thing) -> None:
    count[thing.key] += 1
"""
SLEEPING = """
@handles(Thing)
async def note(thing: Thing) -> None:
    while thing.note == "wait" and not Path("go").exists():
        await asyncio.sleep(0.05)
    count[thing.key] += 1
"""
MENDED = """
from app import PermanentError


@handles(Thing, retry=Retry(1))
async def note(thing: Thing) -> None:
    if thing.note == "bad" and not Path("mended").exists():
        raise PermanentError("no")
    count[thing.key] += 1
"""  # bad ones fail, until there is a file that is called so


class House:
    """A team's fork with one subscription, and the ways to it.

    *start_worker* is the fixture of that name.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        checkout: Path,
        folder: Path,
        start_worker: Callable[..., WorkerProcess],
    ) -> None:
        self.kafka = kafka
        self.checkout = checkout
        self.folder = folder
        self.group = kafka.consumer_config.group_id
        self.topic = kafka.topic(TOPIC)
        self.state_topic = f"{self.group}-{TOPIC}-state"
        self.partitions = 1
        self._start_worker = start_worker
        self._started: list[WorkerProcess] = []
        for name in ("orders", "stock"):
            (checkout / f"agents/{name}.py").unlink()
            (checkout / f"models/{name}.py").unlink()

    def build(
        self,
        handlers: str = COUNTING,
        *,
        options: str = "",
        models: str = MODEL,
        partitions: int = 1,
    ) -> None:
        """Write the fork, with *options* for its subscription, and make its topics."""
        (self.checkout / "models/things.py").write_text(models)
        self.change(handlers, options=options)
        self.partitions = partitions
        self.make_topics()

    def change(self, handlers: str, *, options: str = "") -> None:
        """Write the agents anew: what the next worker does."""
        (self.checkout / "agents/things.py").write_text(
            AGENT.format(options=options, handlers=handlers)
        )

    def make_topics(self, *names: str, partitions: int = 0) -> None:
        """Create the topic and its dead letter topic, or *names* as they are on the cluster."""
        topics = names or (self.topic, f"{self.topic}.dead-letter")
        asyncio.run(
            create_topics(self.kafka, dict.fromkeys(topics, partitions or self.partitions), LIMIT_S)
        )

    def start(
        self, name: str = "one", *, ready: int | None = None, **settings: str
    ) -> WorkerProcess:
        """Start a worker that commits often, and wait until it has *ready* partitions, all unless said otherwise."""
        ready = self.partitions if ready is None else ready
        settings = {
            "WORKER__COMMITINTERVALS": "0.2",
            "KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": str(SESSION_S * 1000),
            **settings,
        }
        worker = self._start_worker(name, ready=ready, cwd=self.checkout, **settings)
        self._started.append(worker)
        return worker

    def end(self) -> None:
        """Kill what still runs: nobody looks at how it ends."""
        for worker in self._started:
            if worker.exit_code() is None:
                worker.signal(signal.SIGKILL)

    def store(self, partition: int = 0, name: str = "one") -> Path:
        """Where a worker keeps a partition's store."""
        return self.folder / name / "state" / self.state_topic / str(partition)

    # Events.

    def thing(
        self,
        key: str,
        number: int = 0,
        note: str = "",
        *,
        event_id: str = "",
        partition: int | None = None,
        at_ms: int | None = None,
        kind: str = "things.Thing",
    ) -> ProducerRecord:
        """An event, with an id of its own unless told."""
        value = b'{"key":"%s","number":%d,"note":"%s"}' % (key.encode(), number, note.encode())
        identity = event_id or f"{key}-{number}"
        headers = [("ce_id", identity.encode()), ("ce_source", b"test"), ("ce_type", kind.encode())]
        return ProducerRecord(self.topic, key.encode(), value, headers, partition, at_ms)

    def send(self, *events: ProducerRecord) -> list[Published]:
        """Send *events* in their order, and wait until the broker has them: where each stands."""

        async def run() -> list[Published]:
            async with Producer(self.kafka) as producer:
                return await producer.send_all(events)

        return asyncio.run(run())

    # What became of them.

    def wait_settled(
        self, expected: int, *workers: WorkerProcess, timeout_s: float = LIMIT_S
    ) -> None:
        """Wait until *workers* have settled *expected* records of the topic: the sum of the offsets."""
        found = 0

        def is_reached() -> bool:
            nonlocal found
            settled = [
                s["next_offsets"] for worker in workers for s in worker.get("/subscriptions/")
            ]
            found = sum(offset or 0 for offsets in settled for offset in offsets.values())
            return found >= expected

        wait_for(is_reached, timeout_s, lambda: f"settled {found} of {expected}")

    def wait_log(self, worker: WorkerProcess, says: str, timeout_s: float = LIMIT_S) -> str:
        """Wait until the worker's log has a line with *says* and return the last one."""

        def lines() -> list[str]:
            return [
                line
                for line in worker.log.read_text("utf-8", "replace").splitlines()
                if says in line
            ]

        wait_for(lambda: bool(lines()), timeout_s, lambda: f"the log does not say {says!r}")
        return lines()[-1]

    def outcomes(self, *workers: WorkerProcess) -> Counter[str]:
        """How the records ended, by what *workers* count."""
        found: Counter[str] = Counter()
        for worker in workers:
            [answer] = worker.get("/subscriptions/")
            found.update({name: count for name, count in answer.items() if isinstance(count, int)})
        return found

    def logged(self, partition: int = 0, topic: str = "") -> list[Logged]:
        """Every record of the state changelog, or of *topic*."""
        reader = LogReader(lambda: log_consumer(self.kafka))
        return asyncio.run(reader.read(topic or self.state_topic, partition, 0))

    def live(self, kind: bytes, partition: int = 0) -> dict[bytes, bytes]:
        """The changelog's records as compaction will leave them, of those whose keys begin with *kind*."""
        found = {record.key: record.value for record in self.logged(partition)}
        return {
            key: value for key, value in found.items() if value is not None and key.startswith(kind)
        }

    def stored(self, kind: bytes, partition: int = 0, name: str = "one") -> dict[bytes, bytes]:
        """What the store of a worker that has stopped keeps under keys that begin with *kind*."""
        store = Store(self.store(partition, name), Memory.of(4, 4))
        store.open()
        try:
            return dict(store.items(kind))
        finally:
            store.close()

    # The cluster, by hand.

    def committed(self) -> dict[int, int]:
        """What the group has committed, by partition."""

        async def run() -> dict[int, int]:
            async with self._admin() as admin:
                offsets = await admin.list_consumer_group_offsets(self.group)
                return {
                    tp.partition: at.offset for tp, at in offsets.items() if tp.topic == self.topic
                }

        return asyncio.run(run())

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit for the group, as somebody from outside does; no worker may be running."""

        async def run() -> None:
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self.kafka.bootstrap_servers,
                group_id=self.group,
                enable_auto_commit=False,
            )
            await consumer.start()
            try:
                places = {
                    TopicPartition(self.topic, number): offset for number, offset in offsets.items()
                }
                consumer.assign(list(places))
                await consumer.commit(places)
            finally:
                await consumer.stop()

        asyncio.run(run())

    def forget_group(self) -> None:
        """Delete the group and its offsets; no worker may be running."""

        async def run() -> None:
            async with self._admin() as admin:
                node = await admin.find_coordinator(self.group)
                answer = await admin._client.send(node, DeleteGroupsRequest([self.group]))
                assert [code for _, code in answer.results] == [0], answer

        asyncio.run(run())

    def forget_members(self) -> None:
        """Have the group forget members that were killed, so that it does not wait for the end of their sessions."""

        async def run() -> None:
            async with self._admin() as admin:
                node = await admin.find_coordinator(self.group)
                [answer] = await admin.describe_consumer_groups([self.group])
                for member in answer.to_object()["groups"][0]["members"]:
                    await admin._client.send(
                        node, LeaveGroupRequest(self.group, member["member_id"])
                    )

        asyncio.run(run())

    def kill(self, worker: WorkerProcess) -> None:
        """End a worker at once, if it has not ended, and have the group know."""
        if worker.exit_code() is None:
            worker.signal(signal.SIGKILL)
        worker.stop()
        self.forget_members()

    def admin(self, call: Callable[[AIOKafkaAdminClient], Any]) -> Any:  # Any: aiokafka is untyped
        """What a call of the admin client answers."""

        async def run() -> Any:
            async with self._admin() as admin:
                return await call(admin)

        return asyncio.run(run())

    def delete_topic(self, name: str) -> None:
        """Delete a topic and wait until it is gone."""
        self.admin(lambda admin: admin.delete_topics([name]))
        wait_for(lambda: name not in self.admin(lambda admin: admin.list_topics()))

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka.bootstrap_servers)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


def processed(worker: WorkerProcess) -> int:
    """How far partition 0 of the first subscription is, by what it remembers: also before anything is settled anew.

    0 before it ever was.
    """
    of_partition = worker.get("/subscriptions/")[0]["processed"]
    return int(of_partition["0"]["next_offset"]) if of_partition else 0


def wait_for(
    is_reached: Callable[[], bool],
    timeout_s: float = LIMIT_S,
    why: Callable[[], str] = lambda: "it did not come",
) -> None:
    """Wait until *is_reached*; a view that does not answer yet counts as no.

    *why* says what is wrong at the end.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if is_reached():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)
