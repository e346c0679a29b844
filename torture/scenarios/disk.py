"""The disk of the state: full, failing under the worker's hands, and its files cut, changed, gone or too old.

Each worker's data folder is a small file system in memory, and the C library in front of it fails
when it is told to.
"""

import errno
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torture.errors import TortureError
from torture.faults import Fault, Hit, always, next_slot
from torture.slots import Slot
from torture.stage import Stage
from torture.standstill import GREEN_S

ROOT = Path(__file__).resolve().parents[2]
SIZE_MIB = 48
SOURCE = ROOT / "torture/systems/iofault.c"
COMMAND_S = 60.0
# So that files are written all the time.
SETTINGS = {"TORTURE_WEIGHT": "16000", "STATE__WRITEBUFFERMIB": "4"}


@contextmanager
def prepared(stage: Stage) -> Iterator[None]:
    """Mount a small disk for each worker, and have workers load the library that fails.

    Raises TortureError when this machine cannot mount one, or has no C compiler.
    """
    library = stage.folder / "iofault.so"
    _command("cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl")
    stage.settings |= {"LD_PRELOAD": str(library), "IOFAULT": str(_order(stage))}
    with ExitStack() as mounted:
        for slot in stage.slots:
            slot.home.mkdir()
            _command(
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"size={SIZE_MIB}m,mode=700",
                "torture",
                str(slot.home),
            )
            mounted.callback(_command, "umount", "-l", str(slot.home))
        yield


def _command(*command: str) -> None:
    try:
        # Ours.
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_S)
    except FileNotFoundError:
        raise TortureError(
            f"the scenario `disk` needs the command {command[0]}, which is not there"
        ) from None
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().splitlines()
        raise TortureError(
            f"the scenario `disk` cannot {command[0]}: {(why or ['no word'])[-1]}"
        ) from None


def _order(stage: Stage) -> Path:
    return stage.folder / "iofault"


@contextmanager
def full(stage: Stage) -> Iterator[Hit]:
    """Leave no room."""
    ballast = next_slot(stage).home / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            _fill(file.write)
        yield always
    finally:
        ballast.unlink(missing_ok=True)


def _fill(write: Callable[[bytes], int | None]) -> None:
    size = 2**20
    while size:
        try:
            write(bytes(size))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            size //= 2


def _calls(kind: str, call: str, number: int, percent: int = 100) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        order = _order(stage)
        order.with_suffix(".new").write_text(
            f"{call} {number} {percent} {next_slot(stage).home}/\n", "utf-8"
        )
        order.with_suffix(".new").rename(order)
        try:
            yield always
        finally:
            order.unlink()

    return Fault(kind, hurting, 1.5)


def _while_down(kind: str, damage: Callable[[Slot, random.Random], None]) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        slot = next_slot(stage)
        stage.kill(slot)
        damage(slot, stage.chance)
        stage.restart(slot)
        yield lambda: bool(stage.owned(slot))

    return Fault(kind, hurting, 0.5)


def _files(slot: Slot, chance: random.Random) -> list[Path]:
    """Some files of the stores, of one kind, or of several."""
    found = sorted(
        path for path in (slot.home / "state").rglob("*") if path.is_file() and path.stat().st_size
    )
    return chance.sample(found, min(len(found), chance.randint(1, 4)))


def _cut(slot: Slot, chance: random.Random) -> None:
    for path in _files(slot, chance):
        with path.open("r+b") as file:
            file.truncate(chance.randrange(path.stat().st_size))


def _delete(slot: Slot, chance: random.Random) -> None:
    for path in _files(slot, chance):
        path.unlink()


def _change(slot: Slot, chance: random.Random) -> None:
    for path in _files(slot, chance):
        data = bytearray(path.read_bytes())
        for at in (chance.randrange(len(data)) for _ in range(8)):
            data[at] ^= chance.randrange(1, 256)
        path.write_bytes(data)


@contextmanager
def _old(stage: Stage) -> Iterator[Hit]:
    slot = next_slot(stage)
    copy = stage.folder / "old"
    stage.kill(slot)
    shutil.copytree(slot.home / "state", copy)
    stage.restart(slot)
    yield lambda: bool(stage.owned(slot))
    stage.kill(slot)
    shutil.rmtree(slot.home / "state", ignore_errors=True)
    shutil.move(copy, slot.home / "state")
    stage.restart(slot)


FAULTS = (
    Fault("disk full", full, 3.0),
    Fault("disk full for long", full, GREEN_S + 8, at_most=1),
    _calls("writes fail with EIO", "write", errno.EIO),
    _calls("writes fail with ENOSPC", "write", errno.ENOSPC),
    _calls("one in five writes fails with EIO", "write", errno.EIO, 20),
    _calls("fsync fails with EIO", "fsync", errno.EIO),
    _calls("one in two fsyncs fails with ENOSPC", "fsync", errno.ENOSPC, 50),
    _calls("reads fail with EIO", "read", errno.EIO),
    _while_down("files of stores cut", _cut),
    _while_down("files of stores deleted", _delete),
    _while_down("bytes in files of stores changed", _change),
    Fault("old copy of a store put back", _old, 1.0),
)
