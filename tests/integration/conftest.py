"""A real Kafka for every test: `KAFKA_BOOTSTRAP_SERVERS`, else the background broker, else one started here.

Each test has topics and a group of its own, so that tests share one broker and never meet. Where
one is started, each of pytest-xdist's processes has its own.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from testcontainers.community.kafka import KafkaContainer

from famulus.config import ConsumerConfig, KafkaConfig
from famulus.dev.background import broker_for_use
from famulus.dev.broker import Broker
from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics, delete_topics
from famulus.kafka.group_progress import GroupProgress
from tests.support import fork_server
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import House
from tests.support.places import PROJECT

PARTITIONS = 4
CONTAINER = {  # one node, and no topic that nobody made
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
}


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> None:
    """Have `faust` processes start soon."""
    fork_server.start()


@pytest.fixture(scope="session")
def bootstrap_servers(pytestconfig: pytest.Config) -> Iterator[str]:
    """Where the broker is. A broker that cannot be started is an error here, never a skip."""
    if image := pytestconfig.getoption("--kafka-image"):
        with KafkaContainer(image).with_kraft().with_envs(**CONTAINER) as container:
            yield container.get_bootstrap_server()
    else:
        with broker_for_use() as broker:
            yield broker.bootstrap_servers


@pytest.fixture
def kafka(bootstrap_servers: str) -> Iterator[KafkaConfig]:
    """Settings with a prefix and a group of this test; its topics go at the end."""
    run = f"test-{uuid4().hex[:8]}."
    settings = KafkaConfig(
        bootstrap_servers=bootstrap_servers,
        topic_prefix=run,
        partitions=PARTITIONS,
        consumer_config=ConsumerConfig(group_id=f"{run}famulus", session_timeout_ms=10_000),
    )
    yield settings
    asyncio.run(delete_topics(settings, run, 30.0))


@pytest.fixture
def make_topics(kafka: KafkaConfig) -> Callable[..., None]:
    """Create topics by the names that models say, each with its dead letter topic."""

    def make(*names: str) -> None:
        every = [kafka.topic(name + suffix) for name in names for suffix in ("", ".dead-letter")]
        asyncio.run(create_topics(kafka, dict.fromkeys(every, PARTITIONS), 30.0))

    return make


def settings_of(kafka: KafkaConfig, data: Path) -> dict[str, str]:
    """The environment of a worker with these settings and its state in *data*."""
    return {
        "KAFKA__BOOTSTRAPSERVERS": kafka.bootstrap_servers,
        "KAFKA__TOPICPREFIX": kafka.topic_prefix,
        "KAFKA__CONSUMERCONFIG__GROUPID": kafka.consumer_config.group_id,
        "KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": str(kafka.consumer_config.session_timeout_ms),
        "WORKER__DATADIR": str(data),
    }


def worker_of(
    kafka: KafkaConfig, data: Path, *, cwd: Path, app: str = "app", **settings: str
) -> WorkerProcess:
    """A worker that is not started yet, with its state in *data* and its log beside it."""
    log = data.with_name(f"{data.name}.log")
    return WorkerProcess(
        {**settings_of(kafka, data), **settings}, log, web_port=free_port(), app=app, cwd=cwd
    )


@pytest.fixture
def start_worker(kafka: KafkaConfig, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers of this test's group; what still runs at the end is ended, and its log is shown on failure."""
    started: list[WorkerProcess] = []

    def start(
        name: str = "one",
        *,
        ready: int = 2 * PARTITIONS,
        cwd: Path = PROJECT,
        app: str = "app",
        **settings: str,
    ) -> WorkerProcess:
        worker = worker_of(kafka, tmp_path / name, cwd=cwd, app=app, **settings)
        worker.start()
        started.append(worker)
        if ready:
            worker.wait_ready(partitions=ready)
        return worker

    yield start
    for worker in started:
        worker.stop()
        # Pytest shows it when the test failed.
        print(worker.log.read_text("utf-8", "replace")[-3000:])


def settle_all(
    kafka: KafkaConfig, topics: Sequence[str], *, expected: int, timeout_s: float
) -> None:
    """Wait until the group has settled at least *expected* records and all there are in *topics*, twice in a row."""

    async def wait() -> None:
        async with (
            asyncio.timeout(timeout_s),
            GroupProgress(kafka, kafka.consumer_config.group_id) as monitor,
        ):
            before = (-1, -1)
            while True:
                progress = (await monitor.progress([kafka.topic(name) for name in topics])).values()
                now = sum(p.settled for p in progress), sum(p.total for p in progress)
                if now == before and now[0] == now[1] >= expected:
                    return
                before = now
                await asyncio.sleep(0.2)

    asyncio.run(wait())


@pytest.fixture
def wait_settled(kafka: KafkaConfig) -> Callable[..., None]:
    """`settle_all` for this test's group."""

    def wait(*topics: str, expected: int, timeout_s: float = 60.0) -> None:
        settle_all(kafka, topics, expected=expected, timeout_s=timeout_s)

    return wait


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the machine must not change a test; KAFKA_BOOTSTRAP_SERVERS has been read by then."""
    for name in list(os.environ):
        if name.upper().startswith(("KAFKA__", "WORKER__")) or name in {"COLUMNS", "LINES"}:
            monkeypatch.delenv(name)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project that a test may change, as a team's fork is one."""
    copy = tmp_path / "checkout"
    for name in ("app", "agents", "models"):
        # Not whole yet.
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(PROJECT / "appsettings.json", copy)
    return copy


@pytest.fixture
def house(
    kafka: KafkaConfig, checkout: Path, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> Iterator[House]:
    """A checkout with one subscription of the test's own; the topics are made when it is built."""
    house = House(kafka, checkout, tmp_path, start_worker)
    yield house
    house.end()


@pytest.fixture
def house_on(checkout: Path, tmp_path: Path) -> Iterator[Callable[[Broker], House]]:
    """A house on a broker of the test's own, which it may stop."""
    with ExitStack() as running:

        def on(broker: Broker) -> House:
            config = ConsumerConfig(group_id="famulus", session_timeout_ms=10_000)
            kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, consumer_config=config)

            def start(name: str, *, ready: int, cwd: Path, **settings: str) -> WorkerProcess:
                worker = running.enter_context(
                    worker_of(kafka, tmp_path / name, cwd=cwd, **settings)
                )
                worker.wait_ready(partitions=ready)
                return worker

            return House(kafka, checkout, tmp_path, start)

        yield on


@pytest.fixture
def do(house: House, tmp_path: Path) -> Callable[..., str]:
    """Run a command of the house's app; what it printed. It must end with 0, or *code*."""

    def run(*words: str, code: int = 0) -> str:
        found, output = faust(
            *words, cwd=house.checkout, **settings_of(house.kafka, tmp_path / "command")
        )
        assert found == code, output
        return output

    return run
