"""One measured system: where it lives, its process, and what that says."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar
from uuid import uuid4

import click

from bench import load
from bench.logs import Restored, restored
from famulus.config import KafkaConfig
from famulus.dev.node import free_port
from famulus.dev.worker import WEB, WorkerProcess

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
STOP_S = 30.0
Result = dict[str, float]
T = TypeVar("T")


class System:
    """A consumer group of one process at a time, with a state folder.

    All of it goes at the end of the context.

    *job* says what its handler does: the script is `systems/NAME_JOB.py`.
    """

    def __init__(self, name: str, job: str, kafka: KafkaConfig, topic: str) -> None:
        self.name, self.job, self.kafka, self.topic = name, job, kafka, topic
        self.group = f"bench-{uuid4().hex[:8]}"
        self.folder = Path(tempfile.mkdtemp(prefix="famulus-bench-"))
        self.state = self.folder / "state"
        self._log = self.folder / "log"
        self._web_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, events: int, *, log_level: str = "warn", **settings: str) -> None:
        """Start the process.

        Its meter counts *events*; *settings* are environment variables for it.
        """
        environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "BENCH_TOPIC": self.topic,
            "BENCH_PARTITIONS": str(self.kafka.partitions),
            "BENCH_GROUP": self.group,
            "BENCH_DIR": str(self.state),
            "BENCH_EVENTS": str(events),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **settings,
        }
        worker = ["worker", "-l", log_level]
        match self.name:
            case "famulus":
                self._lay_out()
                command = [
                    sys.executable,
                    "-m",
                    "faust",
                    "-A",
                    "app",
                    *worker,
                    "--web-port",
                    str(self._web_port),
                ]
                environment |= {
                    **WEB,
                    "PYTHONPATH": f"{self.folder}:{ROOT}",
                    "WORKER__DATADIR": str(self.state),
                    "KAFKA__CONSUMERCONFIG__GROUPID": self.group,
                }
            case "faust":
                script = f"bench.systems.faust_{self.job}"
                command = [sys.executable, "-m", "faust", "-A", script, *worker, "--without-web"]
            case _:
                python = sys.executable if self.name == "aiokafka" else os.environ["BENCH_PYTHON"]
                command = [
                    str(Path(python).absolute()),
                    str(HERE / f"systems/{self.name}_{self.job}.py"),
                ]
        environment["BENCH_BEGAN"] = str(time.time())
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # our own scripts
                command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def _lay_out(self) -> None:
        """A fork of this project as a team would have it: the job's agent, and models of its own."""
        for package in ("app", "models"):
            shutil.copytree(ROOT / package, self.folder / package, dirs_exist_ok=True)
        (self.folder / "models/stock.py").unlink()
        (self.folder / "agents").mkdir(exist_ok=True)
        (self.folder / "agents/__init__.py").touch()
        for script, place in {self.job: "agents", "models": "models"}.items():
            source = (HERE / f"systems/famulus_{script}.py").read_text("utf-8")
            source = source.replace('"order-events"', f'"{self.topic}"')
            (self.folder / place / "orders.py").write_text(source, "utf-8")

    @property
    def pid(self) -> int:
        """The process id. Raises AssertionError when nothing runs."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What the process has said so far."""
        return self._log.read_text("utf-8", "replace")

    def stop(self) -> None:
        """End the process as a supervisor would. Does nothing when none runs."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def result(self, timeout_s: float) -> Result:
        """Wait for the line of its meter. Raises click.ClickException when there is none."""
        return self._wait_for(_metered, timeout_s, "no result")

    def restored(self, rows: int, timeout_s: float) -> Restored:
        """Wait until it says that all *rows* of its state are back.

        Raises click.ClickException when it does not.
        """

        def all_of_them(log: str) -> Restored | None:
            found = restored(log)
            return (
                found if found is not None and (found.rows is None or found.rows >= rows) else None
            )

        return self._wait_for(all_of_them, timeout_s, f"it did not say that {rows:,} rows are back")

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until it has committed its whole topic.

        Raises click.ClickException when it does not.
        """
        try:
            asyncio.run(load.settle(self.kafka, self.group, self.topic, timeout_s))
        except TimeoutError:
            raise self._wrong(f"not everything was committed within {timeout_s:g} s") from None

    def check_effects(self, events: int) -> None:
        """Check that exactly *events* took effect once all is committed.

        Raises click.ClickException.
        """
        self.settle()
        if "BENCH-SURPLUS" in self.log():
            raise self._wrong(f"more than {events:,} events took effect")
        if self.name == "famulus":
            rows = WorkerProcess(
                {"WORKER__DATADIR": str(self.state)}, self._log, web_port=self._web_port
            ).rows("counts")
            if sum(rows.values()) != events:
                raise self._wrong(
                    f"the rows of its table say {sum(rows.values()):,} events, not {events:,}"
                )

    def _wait_for(self, look: Callable[[str], T | None], timeout_s: float, else_say: str) -> T:
        """What *look* finds in the log, as soon as it does."""
        deadline = time.monotonic() + timeout_s
        while True:
            code = self._process.poll() if self._process is not None else None
            if (found := look(self.log())) is not None:
                return found
            if code is not None:
                raise self._wrong(f"{else_say}, it ended with exit code {code}")
            if time.monotonic() > deadline:
                raise self._wrong(f"{else_say} within {timeout_s:g} s")
            time.sleep(0.1)

    def _wrong(self, what: str) -> click.ClickException:
        return click.ClickException(
            f"{self.name}, {self.job}: {what}; its log ends\n{self.log()[-2000:]}"
        )


def _metered(log: str) -> Result | None:
    line = next((line for line in log.splitlines() if line.startswith("BENCH {")), None)
    return json.loads(line.removeprefix("BENCH ")) if line is not None else None
