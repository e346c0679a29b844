"""A disk that is full, read-only or in use, on a real Kafka: the worker says so, settles nothing, and goes on later."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from famulus.state.changelog import ROW
from famulus.state.rocksdb_store import Memory, Store
from tests.integration.test_metrics import families, series
from tests.integration.test_state_start import refused
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

NOTES = """
notes = things.Table("notes", key=str, value=str)


@handles(Thing, retry=Retry(wait_initial_s=0.2))
async def note(thing: Thing) -> None:
    count[thing.key] += 1
    if thing.note:
        notes[thing.key] = thing.note
"""
FAULT = """
from famulus.state.rocksdb_store import Store, StoreError


def refusing(method):
    def call(store, *arguments):
        if Path("refused").exists():
            raise StoreError(Path("refused").read_text())
        return method(store, *arguments)
    return call


Store.open, Store.write = refusing(Store.open), refusing(Store.write)
"""


class Disk:
    """The disk of a worker's state, which a test can fill and make read-only.

    A small file system in memory where this machine lets us mount one, else a fault in the worker's
    own store.
    """

    def __init__(self, house: House, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self._refused = house.checkout / "refused"
        self.is_mounted = not self._mount("-t", "tmpfs", "-o", "size=16m", "none").returncode
        if not self.is_mounted:
            (house.checkout / "agents/a_fault.py").write_text(FAULT)

    def fill(self) -> None:
        """Leave no room."""
        if self.is_mounted:
            with (
                (self.folder / "ballast").open("wb", buffering=0) as file,
                pytest.raises(OSError, match="No space"),
            ):
                while True:
                    file.write(bytes(4096))
        else:
            self._refused.write_text("No space left on device")

    def make_room(self) -> None:
        """Undo `fill`."""
        (self.folder / "ballast").unlink(missing_ok=True)
        self._refused.unlink(missing_ok=True)

    def set_writable(self, *, writable: bool) -> None:
        """Make the stores' folder read-only, or undo it. Nothing may be open for writing in it."""
        if self.is_mounted:
            assert not self._mount("-o", f"remount,{'rw' if writable else 'ro'}").returncode
        elif writable:
            self._refused.unlink()
        else:
            self._refused.write_text("Read-only file system")

    def close(self) -> None:
        """Take it away, also under a worker."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=False)

    def _mount(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["mount", *options, self.folder], check=False, capture_output=True)


@pytest.fixture
def disk(house: House) -> Iterator[Disk]:
    """The disk of the first worker's state folder."""
    disk = Disk(house, house.store().parent.parent)
    yield disk
    disk.close()


@pytest.fixture
def topic_disk(house: House) -> Iterator[Disk]:
    """That of its stores alone: a state folder that cannot be locked is refused, not waited for."""
    disk = Disk(house, house.store().parent)
    yield disk
    disk.close()


def test_a_full_disk_holds_the_worker_up_and_loses_nothing(house: House, disk: Disk) -> None:
    """Nothing is committed beyond what the store has; events that came meanwhile are handled once there is room."""
    house.build(NOTES)
    worker = house.start()
    house.send(*(house.thing(f"key-{number}", 0) for number in range(10)))
    house.wait_settled(10, worker)
    wait_for(lambda: house.committed() == {0: 10})
    disk.fill()
    house.send(
        *(house.thing(f"key-{number % 10}", 1 + number, "x" * 20_000) for number in range(20))
    )
    line = house.wait_log(worker, "nothing is settled until the disk takes it")
    assert "No space left on device" in line
    time.sleep(1)
    house.send(*(house.thing(f"key-{number}", 50) for number in range(10)))
    time.sleep(3)  # longer than three attempts of a handler
    assert worker.exit_code() is None
    assert worker.answer("/tables/")[0] == 200
    status, answer = worker.answer("/readyz")
    assert (status, "No space left on device" in answer["why"]) == (503, True), answer
    blocked = "famulus_partitions_blocked", (("reason", "disk"), ("topic", house.topic))
    assert series(families(worker))[blocked] == 1
    settled = worker.get("/subscriptions/")[0]["next_offsets"]["0"]
    assert house.committed()[0] <= settled < 40
    disk.make_room()
    house.wait_settled(40, worker)
    wait_for(lambda: worker.answer("/readyz")[0] == 200)
    assert house.outcomes(worker)["dead_lettered"] == 0
    assert worker.rows("count") == {f"key-{number}": 4 for number in range(10)}
    assert worker.stop() == 0
    assert house.committed() == {0: 40}
    assert house.stored(ROW) == house.live(ROW)


def test_a_read_only_disk_is_waited_for(house: House, topic_disk: Disk) -> None:
    """Nothing starts and nothing is committed while stores cannot be opened; the worker goes on by itself."""
    house.build(NOTES)
    worker = house.start()
    house.send(*(house.thing(f"key-{number}", 0) for number in range(10)))
    house.wait_settled(10, worker)
    assert worker.stop() == 0
    house.send(*(house.thing(f"key-{number}", 1) for number in range(10)))
    topic_disk.set_writable(writable=False)
    worker = house.start(ready=0)
    assert "Read-only file system" in house.wait_log(worker, "waiting for a state folder")
    time.sleep(1)
    assert worker.get("/subscriptions/")[0]["next_offsets"] == {}
    assert house.committed() == {0: 10}
    topic_disk.set_writable(writable=True)
    worker.wait_ready(LIMIT_S)
    house.wait_settled(20, worker)
    assert worker.rows("count") == {f"key-{number}": 2 for number in range(10)}


def test_a_state_folder_that_is_in_use_is_refused(house: House) -> None:
    """The process that has it is named, and the cure."""
    house.build()
    worker = house.start()
    other = house.start("other", ready=0, WORKER__DATADIR=str(house.folder / "one"))
    line = refused(other)
    assert (
        f"is in use by process {worker.pid}: give each worker one of its own, with WORKER__DATADIR"
        in line
    )
    worker.check()


def test_a_store_that_somebody_else_has_open_is_waited_for(house: House) -> None:
    """No partition starts and nothing is committed meanwhile; the log says who is in the way."""
    house.build(partitions=2)
    worker = house.start()
    house.send(
        *(house.thing(f"key-{number}", number, partition=number % 2) for number in range(10))
    )
    house.wait_settled(10, worker)
    assert worker.stop() == 0
    house.send(
        *(house.thing(f"key-{number}", 10 + number, partition=number % 2) for number in range(10))
    )
    store = Store(house.store(1), Memory.of(4, 4))
    store.open()
    worker = house.start(ready=0)
    line = house.wait_log(worker, "waiting for a state folder")
    assert str(house.store(1)) in line
    assert "While lock file" in line
    time.sleep(2)
    assert worker.get("/subscriptions/")[0]["next_offsets"] == {}
    assert house.committed() == {0: 5, 1: 5}
    assert worker.log.read_text("utf-8", "replace").count("waiting for a state folder") == 1
    store.close()
    worker.wait_ready(LIMIT_S, partitions=2)
    house.wait_settled(20, worker)
    assert worker.rows("count") == {f"key-{number}": 2 for number in range(10)}
