"""A broker in the background that outlives its command, and the choice of a broker for one use.

`faust -A app broker start|stop|status` is the command. The process is noted in a file of the user's
state folder, by its id and its start time, so that a process with a recycled id is never ended.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
import psutil

from famulus.dev.broker import Broker
from famulus.errors import ConfigError

STOP_S = 20.0


@dataclass(frozen=True)
class Running:
    """The background broker. *started* is the process's start time, seconds since 1970."""

    bootstrap_servers: str
    pid: int
    started: float
    data_dir: str


@dataclass(frozen=True)
class InUse:
    """A broker to use. With *is_embedded* it was started for this use and ends with it."""

    bootstrap_servers: str
    is_embedded: bool


def start_background(port: int = 9092, data_dir: Path | None = None) -> Running:
    """Start a broker that stays, or return the one that runs already.

    Raises what `Broker.start` raises.
    """
    there = running()
    if there is not None:
        return there
    data_dir = (data_dir or platformdirs.user_data_path("famulus") / "kafka").absolute()
    broker = Broker(port=port, data_dir=data_dir, guarded=False)
    broker.start()
    pid = broker.nodes[0].pid
    made = Running(broker.bootstrap_servers, pid, psutil.Process(pid).create_time(), str(data_dir))
    file = _state_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(made)), "utf-8")
    except OSError as error:
        broker.stop()
        raise ConfigError(
            f"the state folder {file.parent} cannot be written: {error.strerror}"
        ) from None
    return made


def stop_background() -> Running | None:
    """End the background broker and return it, None when none ran. Its data is kept."""
    there = running()
    if there is not None:
        process = psutil.Process(there.pid)
        process.terminate()
        try:
            process.wait(STOP_S)
        except psutil.TimeoutExpired:
            process.kill()
    _state_file().unlink(missing_ok=True)
    return there


def running() -> Running | None:
    """Return the background broker, None if there is none; forget a process that has died."""
    file = _state_file()
    with suppress(OSError, ValueError, TypeError, psutil.Error):
        written = Running(**json.loads(file.read_text("utf-8")))
        process = psutil.Process(written.pid)
        if (
            abs(process.create_time() - written.started) < 1
            and process.status() != psutil.STATUS_ZOMBIE
        ):
            return written
        file.unlink(missing_ok=True)
    return None


@contextmanager
def broker_for_use() -> Iterator[InUse]:
    """Yield a broker: `KAFKA_BOOTSTRAP_SERVERS`, else the background one, else a new one."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield InUse(servers, is_embedded=False)
    elif (there := running()) is not None:
        yield InUse(there.bootstrap_servers, is_embedded=False)
    else:
        with Broker() as broker:
            yield InUse(broker.bootstrap_servers, is_embedded=True)


def _state_file() -> Path:
    return platformdirs.user_state_path("famulus") / "broker.json"
