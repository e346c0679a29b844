"""Tests of the store on disk: its contents, damage to it, and the lock of its folder."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.errors import ConfigError, InvariantError
from famulus.state.rocksdb_store import DAMAGED, Memory, StateFolder, Store, StoreError
from tests.support.in_memory.settling import MEMORY


def store_with(path: Path, rows: int = 3) -> Store:
    """Return an open store with some rows, at position 7 and epoch 2."""
    store = Store(path, MEMORY)
    store.open()
    batch = store.batch()
    for number in range(rows):
        batch.put(b"t%06d" % number, os.urandom(64))
    store.write(batch, 7, 2)
    return store


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    store = store_with(tmp_path / "topic" / "0")
    rows = dict(store.items(b"t"))
    store.close()
    assert not store.is_open
    with pytest.raises(StoreError, match="closed"):
        store.get(b"t000001")
    with pytest.raises(StoreError, match="closed"):
        list(store.items(b"t"))
    store.open()
    assert (dict(store.items(b"t")), store.position, store.epoch) == (rows, 7, 2)
    assert store.get(b"t000001") == rows[b"t000001"]
    assert store.get_many([b"t000001", b"none"]) == [rows[b"t000001"], None]
    assert [key for key, _ in store.items(b"t", b"000001")] == [b"t000001", b"t000002"]
    assert list(store.items(b"u")) == []
    assert 0 <= store.age_s() < 3600
    store.wipe()
    assert (dict(store.items(b"t")), store.position, store.epoch) == ({}, -1, 0)
    store.close()


@given(limit_mib=st.integers(4, 4096), stores=st.integers(1, 2000))
def test_each_store_has_its_part_of_what_is_not_yet_written_out(
    limit_mib: int, stores: int
) -> None:
    """The sizes are those that RocksDB uses unchanged.

    The limit must have room for two of the smallest buffers.
    """
    together, at_most, size = Memory(None, None, limit_mib * 2**20).shared_by(stores).store_buffers
    assert 1 <= together < at_most
    assert size * at_most <= limit_mib * 2**20 / stores
    assert size >= 64 * 1024 or limit_mib * 2**20 / stores < 2 * 64 * 1024


def test_what_is_not_yet_written_out_stays_below_one_limit_for_all(tmp_path: Path) -> None:
    """Stores without further writes keep their buffers.

    A buffer counts as full when it exceeds its size, by up to one batch.
    """
    limit_mib, stores = 8, 6
    memory = Memory.of(8, limit_mib).shared_by(stores)
    unwritten = 0
    for number in range(stores):
        store = Store(tmp_path / str(number), memory)
        store.open()
        for turn in range(1_000):
            batch = store.batch()
            for _ in range(40):
                batch.put(os.urandom(17), bytes(100))
            store.write(batch, turn, 1)
            held = store._db.property_int_value("rocksdb.cur-size-all-mem-tables")
            assert held <= 1.1 * limit_mib * 2**20 / stores
        unwritten += held
        store.close()
    assert 0 < unwritten <= 1.1 * limit_mib * 2**20


def test_a_store_may_be_compressed_and_is_read_whatever_it_is_opened_with(tmp_path: Path) -> None:
    sizes: dict[str, int] = {}
    for compression in ("none", "lz4", "zstd"):
        store = Store(tmp_path / compression, Memory.of(8, 8, compression))
        store.open()
        batch = store.batch()
        for number in range(10_000):
            batch.put(b"t%06d" % number, b'{"customer":"c%d","status":"open"}' % number)
        store.write(batch, 1, 1)
        store._db.flush()
        store.close()
        sizes[compression] = sum(file.stat().st_size for file in store.path.glob("*.sst"))
        again = Store(store.path, MEMORY)
        again.open()
        assert again.get(b"t000007") == b'{"customer":"c7","status":"open"}'
        again.close()
    assert sizes["zstd"] < sizes["lz4"] < sizes["none"] / 1.5


def truncate_manifest(path: Path) -> None:
    """Cut off the list of the store's files."""
    [manifest] = path.glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[:20])


def delete_table(path: Path) -> None:
    """Delete the files with rows."""
    for file in path.glob("*.sst"):
        file.unlink()


@pytest.mark.parametrize("damage", [truncate_manifest, delete_table])
def test_a_store_that_does_not_open_is_put_aside(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """The damaged store is kept for inspection.

    A new one begins empty, because the changelog has all rows.
    """
    store = store_with(tmp_path / "s")
    store._db.flush()
    store.close()
    damage(tmp_path / "s")
    store.open()
    assert (store.position, store.epoch, list(store.items(b"t"))) == (-1, 0, [])
    assert len(list(tmp_path.glob("s.damaged-*"))) == 1
    store.close()


def test_a_disk_that_damages_stores_again_and_again_keeps_the_last_one_aside(
    tmp_path: Path,
) -> None:
    other = store_with(tmp_path / "s2")
    for _ in range(3):
        store = store_with(tmp_path / "s")
        store._db.flush()
        store.close()
        truncate_manifest(tmp_path / "s")
        store.open()
        store.close()
    [aside] = tmp_path.glob("s.damaged-*")
    assert list(aside.glob("*.sst"))
    assert len(list(other.items(b"t"))) > 0  # of another partition
    other.close()


def test_a_store_whose_end_is_torn_off_is_older_and_says_so(tmp_path: Path) -> None:
    """Its position goes back with its rows, so that the changelog provides the missing ones."""
    store = store_with(tmp_path / "s")
    store._db.flush()
    store.close()
    [manifest] = (tmp_path / "s").glob("MANIFEST-*")
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    store.open()
    assert (store.position, list(store.items(b"t"))) == (-1, [])
    store.close()


def test_flipped_bytes_end_the_process_and_the_next_one_begins_anew(tmp_path: Path) -> None:
    """Checksums detect them on reading, so that no wrong value is returned."""
    store = store_with(tmp_path / "s", 2000)
    store._db.flush()
    store.close()
    for file in (tmp_path / "s").glob("*.sst"):
        content = bytearray(file.read_bytes())
        content[40_000:60_000] = bytes(byte ^ 0xFF for byte in content[40_000:60_000])
        file.write_bytes(content)
    store.open()
    with pytest.raises(InvariantError, match="damaged"):
        for number in range(2000):
            store.get(b"t%06d" % number)
    assert (tmp_path / "s" / DAMAGED).exists()
    store.close()
    store.open()
    assert store.position == -1
    store.close()


def test_a_disk_that_refuses_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening must be retried, and the store stays in its place.

    A failed write does not change the position.
    """
    store = store_with(tmp_path / "s")

    def refuse(*_: object) -> None:
        raise Exception("IO error: No space left on device")  # noqa: TRY002  # as rocksdict does

    monkeypatch.setattr("rocksdict.Rdict", refuse)
    other = Store(tmp_path / "other", MEMORY)
    with pytest.raises(StoreError, match="No space left"):
        other.open()
    assert not list(tmp_path.glob("*.damaged-*"))
    monkeypatch.undo()
    database = store._db
    store._db = SimpleNamespace(write=refuse, close=database.close)
    with pytest.raises(StoreError, match="cannot be written"):
        store.write(store.batch(), 99, 9)
    assert (store.position, store.epoch) == (7, 2)
    store.reopen()
    assert (store.position, len(list(store.items(b"t")))) == (7, 3)
    store.close()


LOCK = (
    "import sys; from pathlib import Path; "
    "from famulus.state.rocksdb_store import StateFolder; f = StateFolder(Path(sys.argv[1]));"
)


def test_a_folder_has_one_process(tmp_path: Path) -> None:
    """The error names the process that has the lock.

    The lock is free when that process ends.
    """
    folder = StateFolder(tmp_path / "state")
    folder.lock()
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        StateFolder(tmp_path / "state").lock()
    command = [sys.executable, "-c", LOCK + "f.lock()", str(tmp_path / "free")]
    assert subprocess.run(command, check=False).returncode == 0
    StateFolder(tmp_path / "free").lock()
    assert folder.store_path("topic", 3) == tmp_path / "state" / "topic" / "3"
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        StateFolder(tmp_path / "file").lock()


def test_tidying_removes_what_nobody_wrote_for_long(tmp_path: Path) -> None:
    """Stores in use and recent ones stay."""
    folder = StateFolder(tmp_path)
    for name in ("old", "used", "young", "0.damaged-1"):
        path = tmp_path / "topic" / name
        path.mkdir(parents=True)
        (path / "CURRENT").touch()
        if name != "young":
            os.utime(path / "CURRENT", (0, 0))
    folder.tidy({tmp_path / "topic" / "used"}, 1)
    assert sorted(path.name for path in (tmp_path / "topic").iterdir()) == ["used", "young"]


def test_what_putting_aside_does_not_cure_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is moved aside only once, because a new folder cannot be damaged."""

    def odd(*of: object) -> None:
        (tmp_path / "s").mkdir(exist_ok=True)
        raise ValueError("odd")

    monkeypatch.setattr("famulus.state.rocksdb_store.rocksdict.Rdict", odd)
    with pytest.raises(StoreError, match="odd"):
        Store(tmp_path / "s", MEMORY).open()
    assert len(list(tmp_path.iterdir())) == 2
