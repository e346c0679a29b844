"""Store of one partition on disk, in RocksDB.

A store holds the content of its changelog partition up to a position. A store that is damaged is
put aside and rebuilt from the changelog. All stores of a process share one block cache and one
limit for write buffers, so that memory does not grow with the number of partitions.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import rocksdict
import structlog

from famulus.errors import ConfigError, InvariantError
from famulus.owned_files import make_folder, open_owned
from famulus.state.identity import ChangelogPartition, decode_home, encode_home

log = structlog.get_logger()
POSITION, EPOCH, WRITTEN, STALE = b"\0position", b"\0epoch", b"\0written", b"\0stale"
# Prefix of the key of a record that cannot be decoded; the value has its place and the reason.
UNREADABLE = b"\0unreadable"
HOME = b"\0home"
DAMAGED = "DAMAGED"  # a file that marks a store not to be opened again
# Per key: one false positive in 500, each of which reads a block. With 10 bits everything takes a
# tenth longer.
BLOOM_BITS = 14
MEMTABLE_BLOOM = 0.1  # share of a write buffer's memory
# Writes are sorted in small buffers that fit into a core's cache, and several buffers are flushed
# as one file. Marks come in random order, and inserting one into a single buffer of the same total
# size took nearly twice as long.
BUFFERS, BUFFER_BYTES, BUFFER_BYTES_MIN = 6, 2 * 2**20, 256 * 1024
HOUR_S = 3600
ROOM_BYTES = 2**20  # a disk with this much space is not full
WAITING = (
    "No space left",
    "Disk quota exceeded",
    "File too large",
    "Permission denied",
    "Read-only file system",
    "While lock file",
    "Too many open files",
)
Compression = Literal["none", "lz4", "zstd"]


class StoreError(Exception):
    """The disk refuses an operation for now; it may work later.

    The message names the obstacle.
    """


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory that all stores of one process share.

    *cache* is the block cache. *write_bytes* limits the write buffers of all *stores* together, and
    each store has a fixed share of it, so that an idle store takes nothing from another. RocksDB
    makes no buffer smaller than 64 KiB, and puts a batch into one buffer as a whole, so this much
    may come on top.
    """

    cache: Any
    buffers: Any
    write_bytes: int
    compression: Compression = "none"
    stores: int = 1

    @classmethod
    def of(
        cls, cache_mib: int, write_buffer_mib: int, compression: Compression = "none"
    ) -> "Memory":
        """Make a block cache and a limit for write buffers, both in MiB.

        *compression* applies to the files. Rows need a third to half of the space with it. Marks
        are digests: they hardly get smaller, and compressing millions of them takes a quarter of
        all CPU time.

        The cache is not RocksDB's older LRU cache, which is split into 64 shards of a fraction of a
        MiB. There the filter of a file, being larger than a shard, was read again at nearly each
        lookup.
        """
        return cls(
            rocksdict.Cache.new_hyper_clock_cache(cache_mib * 2**20, 0),  # 0: entries of any size
            rocksdict.WriteBufferManager(write_buffer_mib * 2**20, allow_stall=False),
            write_buffer_mib * 2**20,
            compression,
        )

    def shared_by(self, stores: int) -> "Memory":
        """Return the same memory divided among *stores*.

        The fixed shares are needed because RocksDB's manager limits the active buffers only, not
        those that wait to be flushed.
        """
        return replace(self, stores=max(stores, 1))

    @property
    def store_buffers(self) -> tuple[int, int, int]:
        """Return the numbers and the size of one store's write buffers.

        The values are the number of buffers flushed together, the maximum number of buffers, and
        the bytes of each.
        """
        share = self.write_bytes // self.stores
        together = max(1, min(BUFFERS, share // BUFFER_BYTES_MIN * 2 // 3))
        at_most = together + (together + 1) // 2  # the others fill while those are flushed
        return together, at_most, min(share // at_most, BUFFER_BYTES)


class Store:
    """Rows by key, as bytes, in one RocksDB.

    *position* is the offset of the last changelog record in the store, -1 for none.

    *home* is the changelog partition that the store copies, None if an older version wrote the
    store. A new value is written with the next batch.

    Reads raise InvariantError when the bytes on disk are damaged. The process then ends, and the
    next one puts the store aside. `get` and `get_many` raise StoreError when the store is closed.
    """

    def __init__(self, path: Path, memory: Memory) -> None:
        self.path = path
        self.position = -1
        self.epoch = 0
        self.home: ChangelogPartition | None = None
        self._written_home: ChangelogPartition | None = None
        self._memory = memory
        self._db: Any = None  # Any: rocksdict is untyped

    def open(self, *, is_new: bool = False) -> None:
        """Open the store, or create it.

        A damaged store is put aside, and an empty one created. *is_new* means that this was done
        just now, so an error cannot be due to damaged bytes.

        Raises StoreError when the disk is full, the folder is not writable, or another process has
        it open.
        """
        if (self.path / DAMAGED).exists():
            self._put_aside("its bytes were damaged")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = rocksdict.Rdict(str(self.path), self._options())
            self.position, self.epoch = self._number(POSITION, -1), self._number(EPOCH, 0)
            home = self._db.get(HOME)
            self.home = self._written_home = None if home is None else decode_home(home)
        except Exception as error:  # rocksdict mostly raises plain Exception
            self.close()
            is_damaged = not (
                is_new or isinstance(error, OSError) or any(sign in str(error) for sign in WAITING)
            )
            if not is_damaged:
                raise StoreError(f"the state in {self.path} cannot be opened: {error}") from error
            self._put_aside(str(error))
            self.open(is_new=True)

    def close(self) -> None:
        """Close the store; reads and writes raise from now on.

        RocksDB may report an error after a failed write; the error is only logged.
        """
        db, self._db = self._db, None
        try:
            if db is not None:
                db.close()
        except Exception as error:  # rocksdict mostly raises plain Exception
            log.warning("a store was closed after a write that failed", error=str(error))

    @property
    def is_open(self) -> bool:
        """Return True if the store is open."""
        return self._db is not None

    def get(self, key: bytes) -> bytes | None:
        """Return the value of *key*, None if there is none."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:  # rocksdict mostly raises plain Exception
            raise self._damaged(error) from error
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the values of *keys*, in their order, with one lookup."""
        try:
            values: list[bytes | None] = self._db.get(keys)
        except Exception as error:
            raise self._damaged(error) from error
        return values

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows whose keys begin with *prefix*, in order.

        The first one is at *prefix* + *start* or after it. Raises StoreError when the store is
        closed, InvariantError when the bytes on disk are damaged.
        """
        at = prefix + start
        if self._db is None:
            raise self._closed()
        for key, value in self._db.items(from_key=at):
            if not key.startswith(prefix):
                return
            at = key
            yield key, value
        self._check_end(at)

    def _check_end(self, at: bytes) -> None:
        """Check that an iteration that ended at the key *at* has not missed anything.

        RocksDB's iterators end silently where bytes cannot be read. Raises InvariantError in that
        case.
        """
        if self._db is None:
            return
        iterator = self._db.iter()
        iterator.seek(at)
        try:
            iterator.status()
            if iterator.valid():
                iterator.next()
                iterator.status()
        except Exception as error:
            raise self._damaged(error) from error

    def batch(self) -> Any:
        """Return an empty WriteBatch, for `write`."""
        return rocksdict.WriteBatch(raw_mode=True)

    def write(self, batch: Any, position: int, epoch: int) -> None:
        """Write *batch* together with the *position* of the changelog that the store then holds.

        Raises StoreError when the disk refuses; call `reopen` before the next try. The store can be
        read meanwhile. A thread would not help, since rocksdict holds the GIL while RocksDB works.
        """
        batch.put(POSITION, b"%d" % position)
        batch.put(EPOCH, b"%d" % epoch)
        batch.put(WRITTEN, b"%d" % time.time())
        home = self.home
        if home is not self._written_home and home is not None:
            batch.put(HOME, encode_home(home))
        try:
            self._db.write(batch)
        except Exception as error:
            raise StoreError(f"the state in {self.path} cannot be written: {error}") from error
        self.position, self.epoch, self._written_home = position, epoch, home

    def reopen(self) -> None:
        """Open the store again after a failed write, since RocksDB then refuses all writes.

        Raises StoreError. While the disk is full the store stays open for reads, because opening
        needs some space, too.
        """
        probe = self.path.with_name(f"{self.path.name}.room")
        try:
            probe.write_bytes(bytes(ROOM_BYTES))
        except OSError as error:
            raise StoreError(
                f"the state in {self.path} cannot be written: {error.strerror}"
            ) from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
        self.close()
        self.open()

    def wipe(self) -> None:
        """Delete everything in the store, but keep its *home*.

        Raises StoreError.
        """
        home = self.home
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self.open()
        self.home = home

    def begin_anew(self) -> Path:
        """Start an empty store without a *home*, and keep the old one beside it.

        Returns the path to which the old store was moved. Raises StoreError.
        """
        aside = self.path.with_name(f"{self.path.name}.before-{time.time_ns()}")
        self.close()
        try:
            self.path.rename(aside)
        except OSError as error:
            raise StoreError(
                f"the state in {self.path} cannot be put aside: {error.strerror}"
            ) from error
        self.open()
        return aside

    def age_s(self) -> float:
        """Return the seconds since the last write."""
        return max(time.time() - self._number(WRITTEN, 0), 0.0)

    def _number(self, key: bytes, default: int) -> int:
        value = self._db.get(key)
        return default if value is None else int(value)

    def _damaged(self, error: Exception) -> Exception:
        if self._db is None:
            return self._closed()
        (self.path / DAMAGED).touch()
        return InvariantError(
            f"the state in {self.path} is damaged ({error}); it is rebuilt at the next start"
        )

    def _closed(self) -> StoreError:
        return StoreError(f"the state in {self.path} is closed")

    def _put_aside(self, why: str) -> None:
        """Keep the damaged store for inspection, in the place of an earlier one.

        More copies would fill a disk that fails again and again, and none is of use: the changelog
        has the state.
        """
        earlier = list(self.path.parent.glob(f"{self.path.name}.damaged-*"))
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(aside)
        for copy in earlier:
            shutil.rmtree(copy, ignore_errors=True)
        log.error(
            "damaged state was put aside and is rebuilt from the changelog",
            why=why,
            kept_at=str(aside),
        )

    def _options(self) -> Any:
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(BLOOM_BITS, block_based=False)
        table.set_block_cache(self._memory.cache)
        table.set_cache_index_and_filter_blocks(v=True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(v=True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(create_if_missing=True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self._memory.buffers)
        together, at_most, size = self._memory.store_buffers
        options.set_write_buffer_size(size)
        options.set_min_write_buffer_number_to_merge(together)
        options.set_max_write_buffer_number(at_most)
        # Nearly all lookups are for the mark of a new event, which does not exist: a Bloom filter
        # answers without a search.
        options.set_memtable_whole_key_filtering(whole_key_filter=True)
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM)
        options.set_keep_log_file_num(1)
        options.set_max_background_jobs(2)
        options.set_compression_type(
            getattr(rocksdict.DBCompressionType, self._memory.compression)()
        )
        return options


class StateFolder:
    """Folder of one process's stores.

    The folder is locked while it is in use, and readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def lock(self) -> None:
        """Lock the folder for this process.

        Raises ConfigError when another process has locked it, it belongs to another user, or the
        disk refuses.
        """
        try:
            make_folder(self.path, "the state folder")
            self._lock = open_owned(self.path / "LOCK", os.O_RDWR | os.O_CREAT, "the lock file")
        except OSError as error:
            raise ConfigError(
                f"the state folder {self.path} cannot be used: {error.strerror}"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._lock, 20).decode("ascii", "replace")
            raise ConfigError(
                f"the state folder {self.path} is in use by process {owner}: "
                "give each worker one of its own, with WORKER__DATADIR"
            ) from None
        os.ftruncate(self._lock, 0)
        os.write(self._lock, b"%d" % os.getpid())

    def store_path(self, topic: str, partition: int) -> Path:
        """Return the path of the store of one partition."""
        return self.path / topic / str(partition)

    def tidy(self, in_use: set[Path], older_than_h: float) -> None:
        """Remove stores that were not written for *older_than_h* hours and are not *in_use*.

        These belong to partitions that moved to other workers, or were put aside.
        """
        limit = time.time() - older_than_h * HOUR_S
        for folder in self.path.glob("*/*/"):
            newest = max(
                (file.stat().st_mtime for file in folder.iterdir()), default=folder.stat().st_mtime
            )
            if folder not in in_use and newest < limit:
                shutil.rmtree(folder, ignore_errors=True)
                log.info(
                    "state of a partition that is elsewhere now was removed", folder=str(folder)
                )
