"""`faust -A app workers N`: killed ones come back, all events are handled, and nothing is left behind."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from famulus.dev.node import HOST
from famulus.dev.worker import WorkerProcess
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import LIMIT_S, House, wait_for
from tests.support.on_kafka.long_running import LongRunning, free_ports, running

KEYS = [f"k{number}" for number in range(8)]
FAST = {"WORKER__COMMITINTERVALS": "0.2", "KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": "6000"}


class Workers:
    """Two workers under one command, and the ways to each."""

    def __init__(self, house: House, folder: Path, port: int, command: LongRunning) -> None:
        self.house = house
        self.command = command
        self.each = [
            WorkerProcess(
                {"WORKER__DATADIR": str(folder / name)},
                Path(),
                web_port=port + at,
                cwd=house.checkout,
            )
            for at, name in enumerate(("1", "2"))
        ]

    def owned(self) -> int:
        """How many partitions they have together; 0 while one of them has none, or does not answer."""
        found = [
            sum(len(s["next_offsets"]) for s in worker.get("/subscriptions/"))
            for worker in self.each
        ]
        return sum(found) if all(found) else 0

    def counts(self) -> dict[str, int]:
        """The rows of the table of both."""
        return {key: count for worker in self.each for key, count in worker.rows("count").items()}

    def pid_of(self, name: str) -> int:
        """The process that runs as this worker now."""
        [*_, line] = [
            line
            for line in self.command.log().splitlines()
            if line.startswith(f"{name} | process ")
        ]
        return int(line.split()[3].rstrip(","))


@pytest.fixture
def workers(house: House, tmp_path: Path) -> Iterator[Workers]:
    """Two of them, with four partitions."""
    house.build(partitions=4)
    port, folder = free_ports(2), tmp_path / "many"
    settings = {**settings_of(house.kafka, folder), **FAST}
    words = "workers", "2", "--web-port", str(port)
    with running(
        tmp_path / "workers.log", *words, cwd=house.checkout, variables=settings
    ) as command:
        workers = Workers(house, folder, port, command)
        wait_for(lambda: workers.owned() == 4, 2 * LIMIT_S, command.log)
        yield workers


@pytest.mark.usefixtures("kafka")
def test_a_killed_worker_comes_back_and_every_event_is_handled_once(
    workers: Workers, tmp_path: Path
) -> None:
    """It is the same worker: its folder, its port, and a metrics view of its own. Ctrl-C ends both."""
    house, killed = workers.house, workers.pid_of("1")
    house.send(*[house.thing(key, number) for number in range(50) for key in KEYS])
    for child in workers.command.children():
        if child.pid == killed:
            child.kill()
    house.send(*[house.thing(key, number) for number in range(50, 100) for key in KEYS])
    workers.command.wait_says("1 | was killed by SIGKILL; it starts again in 1 s")
    wait_for(
        lambda: workers.owned() == 4 and workers.counts() == dict.fromkeys(KEYS, 100), 2 * LIMIT_S
    )
    assert workers.pid_of("1") != killed
    for worker, name in zip(workers.each, ("1", "2"), strict=True):
        assert (tmp_path / "many" / name / "state").is_dir()
        assert b"famulus_" in _metrics(worker)
    workers.command.signal(signal.SIGINT)
    assert workers.command.wait_exit() == 0
    workers.command.wait_all_gone()
    assert workers.command.log().count("ended with exit code 0") == 2
    assert "Traceback" not in workers.command.log()


def test_workers_end_with_a_parent_that_was_killed(workers: Workers) -> None:
    """Nobody can catch SIGKILL: a guard ends them."""
    workers.command.signal(signal.SIGKILL)
    workers.command.wait_exit()
    workers.command.wait_all_gone()


def test_what_a_new_start_does_not_mend_ends_all(house: House, tmp_path: Path) -> None:
    """Topics are missing (78): each says it, and the command ends with that code."""
    house.build()
    house.delete_topic(house.topic)
    code, output = faust(
        "workers",
        "2",
        "--web-port",
        str(free_ports(2)),
        cwd=house.checkout,
        **settings_of(house.kafka, tmp_path / "many"),
    )
    assert code == 78, output
    assert "missing topics" in output
    assert "all workers end: starting it again would not help" in output


def test_a_port_that_is_taken_is_said_before_anything_starts(house: House, do: Any) -> None:
    """That of the second worker."""
    first = free_ports(2)
    with socket.create_server((HOST, first + 1)):
        output = do("workers", "2", "--web-port", str(first), code=78)
    assert f"{HOST}:{first + 1}" in one_line(output)
    assert "process" not in output
    assert "need the ports from 65535" in one_line(
        do("workers", "2", "--web-port", "65535", code=78)
    )


def _metrics(worker: WorkerProcess) -> bytes:
    with urlopen(worker.request("/metrics"), timeout=LIMIT_S) as answer:
        return bytes(answer.read())
