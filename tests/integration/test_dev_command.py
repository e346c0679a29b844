"""`faust -A app dev`: a save takes effect, state stays, and whatever ends the command ends all that it started."""

import asyncio
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from famulus.cli.dev.broker import port_of
from famulus.dev.node import HOST, free_port
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import partitions_of
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import COUNTING, LIMIT_S, MODEL, House, wait_for
from tests.support.on_kafka.long_running import LongRunning, running

START_S = 3 * LIMIT_S
NINE = COUNTING.replace("+= 1", "+= 9")
OTHER_MODEL = MODEL.replace("things", "others").replace("Thing", "Other")
OTHER_AGENT = """
from app import Deliveries, app

others = app.subscription("others")


@app.agent(others)
async def other_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()
"""


class Developing:
    """The command at work in a checkout, and the way to its worker."""

    def __init__(self, command: LongRunning, worker: WorkerProcess) -> None:
        self.command = command
        self.worker = worker

    def wait_ready(self, times: int) -> None:
        """Wait until a worker has got ready so often."""
        self.command.wait_says("dev: ready after", times, START_S)

    def wait_count(self, expected: dict[str, int]) -> None:
        """Wait until the table has these rows."""
        wait_for(lambda: self.worker.rows("count") == expected, LIMIT_S, self.command.log)

    def worker_process(self) -> psutil.Process:
        """The worker that runs now."""
        port = int(self.worker.url.rpartition(":")[2])
        listening = psutil.CONN_LISTEN
        [found] = [
            child
            for child in self.command.children()
            if any(
                of.status == listening and of.laddr.port == port for of in child.net_connections()
            )
        ]
        return found


@contextmanager
def developing(house: House, folder: Path, **settings: str) -> Iterator[Developing]:
    """Run `dev` in the house's checkout, with its data in *folder*."""
    port = free_port()
    variables = {"WORKER__DATADIR": str(folder), "WORKER__COMMITINTERVALS": "0.2", **settings}
    worker = WorkerProcess(variables, folder.with_suffix(".log"), web_port=port, cwd=house.checkout)
    words = "dev", "--web-port", str(port)
    with running(
        folder.with_suffix(".log"), *words, cwd=house.checkout, variables=variables
    ) as command:
        yield Developing(command, worker)


def write(house: House, handlers: str = COUNTING) -> None:
    """Write the fork, and make no topics."""
    (house.checkout / "models/things.py").write_text(MODEL)
    house.change(handlers)


def test_a_save_takes_effect_and_the_state_stays(house: House, tmp_path: Path) -> None:
    """Topics are made; a broken file is one line until the next save; a killed worker comes back; Ctrl-C ends all."""
    write(house)
    with developing(house, tmp_path / "data", **settings_of(house.kafka, tmp_path / "data")) as dev:
        dev.wait_ready(1)
        assert f"dev: Kafka at {house.kafka.bootstrap_servers}\n" in dev.command.log()
        house.send(house.thing("k", 1))
        dev.wait_count({"k": 1})

        house.change(NINE)  # of the same size, and in the same second, perhaps
        dev.command.wait_says("dev: agents/things.py changed: the worker starts again")
        dev.wait_ready(2)
        house.send(house.thing("k", 2))
        dev.wait_count({"k": 10})

        house.change("def broken(")
        dev.command.wait_says(
            "dev: the worker ended with exit code 78; it starts again when a file is saved"
        )
        assert "agents/things.py:" in one_line(dev.command.log())
        assert "SyntaxError" in one_line(dev.command.log())
        (house.checkout / "models/others.py").write_text(OTHER_MODEL)
        (house.checkout / "agents/others.py").write_text(OTHER_AGENT)
        house.change(COUNTING)
        wait_for(lambda: len(dev.worker.get("/subscriptions/")) == 2, START_S, dev.command.log)
        needed = [
            house.kafka.topic(f"{name}{of}")
            for name in ("things", "others")
            for of in ("", ".dead-letter")
        ]
        assert asyncio.run(partitions_of(house.kafka, needed, LIMIT_S)).keys() == set(needed)

        dev.worker_process().kill()
        dev.command.wait_says(
            "dev: the worker was killed by SIGKILL; it starts again in 1 s, or when a file is saved"
        )
        wait_for(lambda: len(dev.worker.get("/subscriptions/")) == 2, START_S, dev.command.log)
        house.send(house.thing("k", 3))
        dev.wait_count({"k": 11})

        dev.command.signal(signal.SIGINT)
        assert dev.command.wait_exit() == 0
        dev.command.wait_all_gone()
        assert "Traceback" not in dev.command.log()


def test_a_broker_of_its_own_keeps_its_data_and_ends_with_it(house: House, tmp_path: Path) -> None:
    """The end of the terminal is the end of all, and so is SIGKILL; what was there is there the next time."""
    write(house)
    (event := tmp_path / "event.ndjson").write_text(
        '{"type": "things.Thing", "value": {"key": "k"}}\n'
    )
    outside = {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "KAFKA_BOOTSTRAP_SERVERS": "",
    }  # and nothing in the background
    with developing(house, tmp_path / "data", **outside) as dev:
        dev.wait_ready(1)
        found = re.search(
            rf"dev: Kafka at (\S+), data in {re.escape(str(tmp_path / 'data/kafka'))}\n",
            dev.command.log(),
        )
        assert found is not None
        code, output = faust(
            "publish", str(event), cwd=house.checkout, KAFKA_BOOTSTRAP_SERVERS=found[1]
        )
        assert code == 0, output
        dev.wait_count({"k": 1})
        dev.command.signal(signal.SIGHUP)
        assert dev.command.wait_exit() == 0
        dev.command.wait_all_gone()
    with developing(house, tmp_path / "data", **outside) as dev:
        dev.wait_ready(1)
        dev.wait_count({"k": 1})
        assert (
            len(dev.command.children()) == 5
        )  # the broker, the worker, a guard of each, and the spare
        dev.command.signal(signal.SIGKILL)
        dev.command.wait_exit()
        dev.command.wait_all_gone()


def test_what_is_missing_is_one_line(house: House, do: Any, tmp_path: Path) -> None:
    """The package, the port, the broker that was named, a broker that can be started here."""
    write(house)
    with socket.create_server((HOST, 0)) as server:
        port = str(server.getsockname()[1])
        assert f"{HOST}:{port}" in one_line(do("dev", "--web-port", port, code=78))
    port = str(free_port())
    settings = {"WORKER__STARTUPTIMEOUTS": "2", "WORKER__DATADIR": str(tmp_path / "data")}
    code, output = faust(
        "dev",
        "--web-port",
        port,
        cwd=house.checkout,
        KAFKA_BOOTSTRAP_SERVERS=f"{HOST}:{free_port()}",
        **settings,
    )
    assert code == 69, output
    assert "no Kafka broker answers" in one_line(output)
    code, output = faust(
        "dev",
        "--web-port",
        port,
        cwd=house.checkout,
        KAFKA__SECURITYPROTOCOL="SSL",
        KAFKA_BOOTSTRAP_SERVERS="",
        **settings,
    )
    assert code == 78, output
    assert "name a broker by KAFKA_BOOTSTRAP_SERVERS" in one_line(output)
    (house.checkout / "watchfiles.py").write_text("raise ImportError")
    assert "dev needs watchfiles: `make install`" in one_line(
        do("dev", "--web-port", port, code=78)
    )


def test_the_port_of_the_settings_is_taken_when_it_is_free() -> None:
    """So that other commands find the broker."""
    free = free_port()
    assert port_of(f"localhost:{free}") == free
    assert (
        port_of(f"kafka.example:{free}") == port_of("localhost") == port_of("localhost:99999") == 0
    )
    with socket.create_server((HOST, free)):
        assert port_of(f"localhost:{free}") == 0
