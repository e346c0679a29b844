"""A worker of a project on a real Kafka, for the project's tests and demos.

    with run_app(app) as running:
        running.publish(OrderCreated(...))
        running.wait_handled()
        assert running.rows("spend") == {...}

It needs the packages of the extra `dev`: `pip install "famulus[dev]"`.
"""

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from famulus.application import Famulus
from famulus.config import KafkaConfig
from famulus.dev.background import InUse, broker_for_use
from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.errors import UnavailableError
from famulus.kafka.admin import delete_topics
from famulus.kafka.group_progress import GroupProgress
from famulus.model import Event
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.serialization.records import Headers

POLL_S = 0.1
COMMAND_LIMIT_S = 60.0


class RunningApp:
    """A worker of an app, its Kafka, and what a test does with them. `run_app` makes one.

    *worker* is the process: it can be killed, stopped and started again. *kafka* has the settings
    of the cluster, with the prefix and the group of this run.
    """

    def __init__(self, app: Famulus, kafka: KafkaConfig, worker: WorkerProcess) -> None:
        self.kafka = kafka
        self.worker = worker
        self._app = app

    @property
    def url(self) -> str:
        """The address of the worker's web server, without a slash at its end."""
        return self.worker.url

    def publish(self, *events: Event, key: object = None, headers: Headers = ()) -> None:
        """Publish *events* in their order and return when Kafka has them.

        *key* and *headers* are as for `EventBus.publish`. Raises as that does.
        """

        async def publish() -> None:
            async with EventBus(Producer(self.kafka)) as bus:
                for event in events:
                    await bus.publish(event, key=key, headers=headers)

        asyncio.run(publish())

    def produce(self, topic: str, key: object, value: bytes | None) -> None:
        """Write one record as it is, such as one that no handler can read, and wait for Kafka.

        *topic* is named as models name it. Raises as `Producer.produce` does.
        """

        async def produce() -> None:
            async with Producer(self.kafka) as producer:
                await producer.produce(topic, key, value)

        asyncio.run(produce())

    def wait_handled(self, timeout_s: float = 60.0) -> None:
        """Wait until the group has settled every record, those that handlers publish included.

        A record is settled when its offset is committed: handled, ignored, or dead-lettered.
        Raises UnavailableError when that takes longer than *timeout_s* seconds or the worker ends.
        """
        topics = [self.kafka.topic(name) for name in self._app.subscriptions]

        async def wait() -> None:
            async with GroupProgress(self.kafka, self.kafka.consumer_config.group_id) as group:
                deadline = time.monotonic() + timeout_s
                before = -1
                while True:
                    progress = (await group.progress(topics)).values()
                    total = sum(topic.total for topic in progress)
                    behind = sum(topic.lag for topic in progress)
                    # Twice the same: a handler may have published between two answers.
                    if not behind and total == before:
                        return
                    before = total
                    self.worker.check()
                    if time.monotonic() > deadline:
                        raise UnavailableError(
                            f"{behind} records were not settled within {timeout_s:g} s; "
                            f"the worker says: {self.worker.last_words()}"
                        )
                    await asyncio.sleep(POLL_S)

        asyncio.run(wait())

    def rows(self, table: str) -> dict[str, Any]:
        """Return every row of a table: the text of its key -> the value as JSON has it.

        Raises OSError when the worker does not answer, HTTPError (404) for an unknown table.
        """
        return self.worker.rows(table)

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return the dead letters, each as `faust -A app dlq list --each --json` shows it."""
        lines = self.command("dlq", "list", "--each", "--json").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def command(self, *words: str) -> str:
        """Run `faust -A app WORDS` beside the worker and return its standard output.

        Raises UnavailableError with the command's own error unless it exits with 0.
        """
        done = subprocess.run(
            [*self.worker.faust, *words],
            cwd=self._app.project_folder,
            env=self.worker.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_LIMIT_S,
        )
        if done.returncode:
            raise UnavailableError(f"faust {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def run_app(
    app: Famulus, *, module: str = "app", timeout_s: float = 60.0, **settings: str
) -> Iterator[RunningApp]:
    """Run a worker of *app* on a Kafka until the block ends, with its own state and topics.

    The Kafka is the one that KAFKA_BOOTSTRAP_SERVERS names, else that of `faust -A app broker
    start`, else one that is started here and ends with the block; its first start downloads Kafka.
    *module* is the name for `faust -A`. *settings* are environment variables of the worker, such as
    `WORKER__CONCURRENCY="1"`.

    Raises UnavailableError when the worker is not ready within *timeout_s* seconds, with the line
    of its log that explains why.
    """
    app.finalize()
    app.discover()
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="famulus-")))
        broker = running.enter_context(broker_for_use())
        kafka = _kafka_of(app, broker)
        variables = {
            "KAFKA__BOOTSTRAPSERVERS": kafka.bootstrap_servers,
            "KAFKA__TOPICPREFIX": kafka.topic_prefix,
            "KAFKA__REPLICATIONFACTOR": str(kafka.replication_factor),
            "KAFKA__CONSUMERCONFIG__GROUPID": kafka.consumer_config.group_id,
            "WORKER__DATADIR": str(folder / "data"),
            "WORKER__COMMITINTERVALS": "0.2",
            **settings,
        }
        worker = WorkerProcess(
            variables,
            folder / "worker.log",
            web_port=free_port(),
            app=module,
            cwd=app.project_folder,
        )
        app_running = RunningApp(app, kafka, worker)
        app_running.command("topics", "apply")
        if not broker.is_embedded:
            running.callback(
                lambda: asyncio.run(delete_topics(kafka, kafka.topic_prefix, timeout_s))
            )
        running.enter_context(worker)
        partitions = len(app.subscriptions) * kafka.partitions
        worker.wait_ready(timeout_s, partitions=partitions)
        yield app_running


def _kafka_of(app: Famulus, broker: InUse) -> KafkaConfig:
    """Return the settings of a run: on a shared cluster its topics and group have a prefix."""
    run = "" if broker.is_embedded else f"test-{uuid4().hex[:8]}."
    configured = app.settings.kafka
    group = f"{run}{configured.consumer_config.group_id}"
    return configured.model_copy(
        update={
            "bootstrap_servers": broker.bootstrap_servers,
            "topic_prefix": run,
            "replication_factor": 1 if broker.is_embedded else configured.replication_factor,
            "consumer_config": configured.consumer_config.model_copy(update={"group_id": group}),
        }
    )
