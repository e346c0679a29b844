"""A real Apache Kafka for development and tests: a Java process for each node, without Docker.

    with Broker() as broker:
        connect(broker.bootstrap_servers)

The processes end with the process that started them, also when that is killed, see `process_guard`.
Three nodes make a cluster for fault tests.
"""

import base64
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from famulus import process_guard
from famulus.dev.jars import jars, java
from famulus.dev.node import HOST, Node, free_port
from famulus.errors import ConfigError, UnavailableError


@dataclass(frozen=True, slots=True)
class Listener:
    """A secured way in, beside the plain one.

    *config* has its settings as Kafka calls them, without its name.
    """

    name: str  # capitals and digits
    protocol: str  # SSL, SASL_SSL or SASL_PLAINTEXT
    config: Mapping[str, str]

    def properties(self) -> dict[str, str]:
        """Its lines of server.properties."""
        return {
            f"listener.name.{self.name.lower()}.{name}": value
            for name, value in self.config.items()
        }


class Broker:
    """A Kafka cluster of *nodes* processes on 127.0.0.1.

    Use it as a context manager, or `start` and `stop`.

    *port* 0 picks free ports. Without a *data_dir* the data goes away at the end; with one it is
    kept and found again. *config* adds to server.properties or overrides it. With *guarded* false
    the processes outlive this one. *listeners* are further ways in, on free ports (see `address`);
    *scram_users* are name -> password. *java_options* are further ones for the brokers' processes.
    """

    def __init__(  # each is a choice of its own, all have defaults
        self,
        *,
        port: int = 0,
        data_dir: Path | None = None,
        nodes: int = 1,
        config: Mapping[str, str] | None = None,
        heap_mb: int = 512,
        start_timeout_s: float = 60.0,
        guarded: bool = True,
        listeners: Iterable[Listener] = (),
        scram_users: Mapping[str, str] | None = None,
        java_options: Sequence[str] = (),
    ) -> None:
        self.nodes: list[Node] = []
        self.data_dir = data_dir
        self._port = port
        self._size = nodes
        self._config = dict(config or {})
        self._heap_mb = heap_mb
        self._start_timeout_s = start_timeout_s
        self._guarded = guarded
        self._listeners = list(listeners)
        self._scram_users = dict(scram_users or {})
        self._java_options = list(java_options)
        self._temporary: Path | None = None
        self._guard: subprocess.Popen[str] | None = None

    @property
    def bootstrap_servers(self) -> str:
        """host:port of every node, comma separated."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def address(self, listener: str) -> str:
        """host:port of every node at the listener of that name, comma separated."""
        return ",".join(f"{HOST}:{node.ports[listener]}" for node in self.nodes)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node and wait until the cluster answers.

        Raises ConfigError for a busy port, a folder that cannot be written or a missing package,
        UnavailableError when Kafka cannot be downloaded or does not start within the timeout.
        """
        java(), jars()  # first, so that what is missing is said before anything is made
        try:
            self.nodes = [self._node(number) for number in range(1, self._size + 1)]
            # Kafka refuses a leading dash.
            cluster = "A" + base64.urlsafe_b64encode(uuid4().bytes).decode()[1:22]
            for node in self.nodes:
                self._configure(node)
                node.format(cluster, self._scram_users)
            for node in self.nodes:
                self._spawn(node)
            self._wait_ready(self.nodes, alive=self._size)
        except BaseException:
            self.stop()
            raise

    def restart(self, node: Node) -> None:
        """Start a node again with its data and its port; a running one is stopped first."""
        self._end([node])
        self._spawn(node)
        self._wait_ready([node], alive=1)

    def stop(self) -> None:
        """End every node, and remove the data unless it has a folder of its own.

        Does nothing when nothing runs.
        """
        self._end(self.nodes)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _node(self, number: int) -> Node:
        if self._port:
            _check_free(self._port + number - 1)
        try:
            if self.data_dir is None:
                self._temporary = self._temporary or Path(tempfile.mkdtemp(prefix="famulus-kafka-"))
            folder = (self.data_dir or self._temporary or Path()).absolute() / f"node-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            ports = {listener.name: free_port() for listener in self._listeners}
            port = self._port + number - 1 if self._port else free_port()
            node = Node(number, port, free_port(), folder, self._heap_mb, ports, self._java_options)
            node.log.write_bytes(b"")
        except OSError as error:
            raise ConfigError(
                f"Kafka's data folder {error.filename} cannot be written: {error.strerror}"
            ) from None
        return node

    def _configure(self, node: Node) -> None:
        copies = str(min(3, self._size))
        ways_in = [
            f"PLAINTEXT://{HOST}:{node.port}",
            *(f"{name}://{HOST}:{port}" for name, port in node.ports.items()),
        ]
        protocols = [
            "PLAINTEXT:PLAINTEXT",
            "CONTROLLER:PLAINTEXT",
            *(f"{x.name}:{x.protocol}" for x in self._listeners),
        ]
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(node.number),
            "controller.quorum.voters": ",".join(
                f"{n.number}@{HOST}:{n.controller_port}" for n in self.nodes
            ),
            "listeners": ",".join([*ways_in, f"CONTROLLER://{HOST}:{node.controller_port}"]),
            "advertised.listeners": ",".join(ways_in),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": ",".join(protocols),
            "log.dirs": str(node.folder / "log"),
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "broker.heartbeat.interval.ms": "500",
            # A killed node may come back when its session is over.
            "broker.session.timeout.ms": "3000",
            **{
                name: value
                for listener in self._listeners
                for name, value in listener.properties().items()
            },
            **self._config,
        }
        lines = (f"{name}={value}\n" for name, value in properties.items())
        (node.folder / "server.properties").write_text("".join(lines), "utf-8")

    def _spawn(self, node: Node) -> None:
        node.start()
        self._tell_guard(f"+{node.pid}")

    def _tell_guard(self, line: str) -> None:
        if not self._guarded:
            return
        if self._guard is None:
            folders = [str(self._temporary)] if self._temporary is not None else []
            self._guard = subprocess.Popen(  # our own script
                [sys.executable, "-IS", process_guard.__file__, *folders],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        assert self._guard.stdin is not None
        print(line, file=self._guard.stdin, flush=True)

    def _wait_ready(self, nodes: list[Node], *, alive: int) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        for node in nodes:
            while node.brokers_alive() < alive:
                if node.has_ended():
                    raise UnavailableError(f"Kafka ended while it started: {node.last_words()}")
                if time.monotonic() > deadline:
                    limit = f"{self._start_timeout_s:g} s"
                    raise UnavailableError(
                        f"Kafka did not start within {limit}: {node.last_words()}"
                    )
                time.sleep(0.05)

    def _end(self, nodes: list[Node]) -> None:
        running = [node for node in nodes if node.process is not None]
        for node in running:
            node.ask_to_stop()
        for node in running:
            node.wait_stopped()
            self._tell_guard(f"-{node.pid}")
            node.process = None


def _check_free(port: int) -> None:
    try:
        with socket.create_server((HOST, port)):
            pass
    except OSError as error:
        raise ConfigError(
            f"port {port} is taken ({error.strerror}): choose another, or 0 for any free one"
        ) from None
