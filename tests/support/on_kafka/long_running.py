"""A command that runs until it is stopped, as in a terminal of its own: its log, its children, its end."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from famulus.dev.node import HOST, free_port
from tests.support.on_kafka.house import LIMIT_S, wait_for


class LongRunning:
    """One `faust -A app ...` that goes on."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log
        self._seen: dict[int, psutil.Process] = {}

    def log(self) -> str:
        """Everything that it has said."""
        return self._log.read_text("utf-8", "replace")

    def wait_says(self, text: str, times: int = 1, timeout_s: float = LIMIT_S) -> None:
        """Wait until it has said *text* so often."""
        wait_for(
            lambda: self.log().count(text) >= times,
            timeout_s,
            lambda: f"no {text!r} in: {self.log()[-3000:]}",
        )

    def children(self) -> list[psutil.Process]:
        """What it has started and what that has started, each remembered for `wait_all_gone`."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update({of.pid: of for of in found})
        return [of for of in found if of.status() != psutil.STATUS_ZOMBIE]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, it alone. All that it has started by now must be gone at the end."""
        self.children()
        self.process.send_signal(number)

    def wait_exit(self, timeout_s: float = 2 * LIMIT_S) -> int:
        """Wait for its end: the exit code."""
        return self.process.wait(timeout_s)

    def wait_all_gone(self, timeout_s: float = 2 * LIMIT_S) -> None:
        """Wait until none of the processes runs that were there when it was signalled."""

        def left() -> list[str]:
            alive = [
                of
                for of in self._seen.values()
                if of.is_running() and of.status() != psutil.STATUS_ZOMBIE
            ]
            return [" ".join(of.cmdline()) for of in alive]

        def is_gone() -> bool:
            try:
                return not left()
            except psutil.NoSuchProcess:
                return False

        wait_for(is_gone, timeout_s, lambda: f"still there: {left()}")


@contextmanager
def running(
    log: Path, *words: str, cwd: Path, variables: Mapping[str, str]
) -> Iterator[LongRunning]:
    """Run `faust -A app` with *words*; what is left of it at the end is killed."""
    command = [str(Path(sys.executable).with_name("faust")), "-A", "app", *words]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    found = LongRunning(process, log)
    try:
        yield found
    finally:
        if process.poll() is None:
            found.children()
            process.kill()
        for child in found._seen.values():
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait(LIMIT_S)


def free_ports(count: int) -> int:
    """The first of *count* free ports in a row."""
    while True:
        first = free_port()
        try:
            for port in range(first + 1, first + count):
                socket.create_server((HOST, port)).close()
        except OSError:
            continue
        return first
