"""Tests of a full disk: nothing is settled until it accepts writes, and reading goes on."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from famulus.errors import InvariantError
from famulus.state import checkpointer as commit
from famulus.state.changelog import row_key
from famulus.state.rocksdb_store import Store, StoreError
from tests.support.in_memory.house import House
from tests.support.in_memory.settling import Desk

A, B = row_key("t", b"a"), row_key("t", b"b")


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as settled before the disk has it."""
    desk = await Desk(tmp_path / "s").claim()
    monkeypatch.setattr(commit, "RETRY_S", 0.0)
    write, left = Store.write, [1, 2]

    def full(self: Store, *of: Any) -> None:
        if left:
            left.pop()
            raise StoreError("No space left on device")
        write(self, *of)

    monkeypatch.setattr(Store, "write", full)
    assert await desk.settle({A: b"1"})
    assert (left, desk.kept.rows) == ([], {A: b"1"})
    assert desk.steps.count("sending") == 1


async def nothing(_: object) -> None:
    """Do nothing."""


class Full:
    """A disk that refuses writes, and while *is_shut* also refuses to open a store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full, self.is_shut, self.writes = True, False, 0
        write, opened = Store.write, Store.open

        def try_write(store: Store, *of: Any) -> None:
            self.writes += 1
            if self.is_full:
                raise StoreError("No space left on device")
            write(store, *of)

        def try_open(store: Store, **of: bool) -> None:
            if self.is_shut:
                raise StoreError("No space left on device")
            opened(store, **of)

        monkeypatch.setattr(Store, "write", try_write)
        monkeypatch.setattr(Store, "open", try_open)
        monkeypatch.setattr(commit, "RETRY_S", 0.001)

    async def tried(self, times: int = 1) -> None:
        """Wait until at least so many writes were tried, and a little longer."""
        async with asyncio.timeout(10):
            while self.writes < times:  # retries need nothing but time
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)


async def test_a_full_disk_can_still_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers continue meanwhile until the open checkpoint is full."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    disk = Full(monkeypatch)
    settling = asyncio.create_task(desk.settle({A: b"2"}))
    await disk.tried(2)
    assert desk.store.get(A) == b"1"
    disk.is_full = False
    assert await asyncio.wait_for(settling, 10)
    assert desk.store.get(A) == b"2"


async def test_a_partition_says_that_the_disk_holds_it_up_until_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/readyz`, the metrics and the watchdog read these reasons.

    The log has one entry for each change, not for each try.
    """
    desk = await Desk(tmp_path / "s").claim()
    disk = Full(monkeypatch)
    [processor] = House(nothing, 1, 1, remembers=True).processors
    processor.checkpoint_loop._checkpointer = desk.checkpointer
    with capture_logs() as said:
        settling = asyncio.create_task(desk.settle({A: b"2"}))
        await disk.tried(3)
        assert (processor.blocked, processor.unwritten) == (
            "No space left on device",
            "No space left on device",
        )
        disk.is_full = False
        assert await asyncio.wait_for(settling, 10)
    assert (processor.blocked, processor.unwritten) == ("", "")
    assert [line["event"] for line in said] == [
        "nothing is settled until the disk takes it",
        "the disk takes it again",
    ]


async def test_a_store_that_cannot_be_opened_either_is_closed_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader gets an error meanwhile that makes it wait."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    disk = Full(monkeypatch)
    disk.is_shut = True
    settling = asyncio.create_task(desk.settle({A: b"2"}))
    await disk.tried()
    assert disk.writes == 1
    with pytest.raises(StoreError, match="closed"):
        desk.store.get(A)
    disk.is_full = disk.is_shut = False
    assert await asyncio.wait_for(settling, 10)
    assert desk.store.get(A) == b"2"


async def test_a_store_that_was_put_aside_while_it_was_opened_anew_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is empty then, and only the changelog has its rows.

    The next start restores them from there.
    """
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    Full(monkeypatch)
    monkeypatch.setattr(Store, "reopen", Store.wipe)
    with pytest.raises(InvariantError, match="not what it was"):
        await desk.settle({B: b"2"})
    assert desk.store.position == -1


REAL = """
import resource
from pathlib import Path
from famulus.state.rocksdb_store import Memory, Store, StoreError

store = Store(Path.cwd() / "s", Memory.of(8, 8))
store.open()


def write(value, position):
    batch = store.batch()
    batch.put(b"a", value)
    store.write(batch, position, 1)


write(b"1", 1)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
for attempt in range(3):
    try:
        if attempt:
            store.reopen()
        write(b"2" * 100_000, 2)
    except StoreError:
        print("refused", store.get(b"a") if store.is_open else "closed")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
store.reopen()
print(store.position, store.get(b"a"))
write(b"3", 2)
print(store.position, store.get(b"a"))
"""


def test_a_real_store_goes_on_when_its_disk_takes_it_again(tmp_path: Path) -> None:
    """RocksDB complains when it is closed after a failed write, and cannot be opened.

    No data is lost.
    """
    command = [sys.executable, "-c", REAL]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line for line in found.stdout.splitlines() if "[warning" not in line]
    assert lines[0] == "refused b'1'", found
    assert lines[-2:] == ["1 b'1'", "2 b'3'"], found
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
