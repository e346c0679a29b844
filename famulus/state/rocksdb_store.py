"""One partition's store on disk: a RocksDB that holds what the changelog says, up to a position in it.

A store that is damaged is put aside and made again from the changelog. All stores of a process
share one block cache and one limit for what is not yet written out, so that memory does not grow
with the number of partitions.
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
# Before the key of a record that cannot be read, with its place and the reason.
UNREADABLE = b"\0unreadable"
HOME = b"\0home"
DAMAGED = "DAMAGED"  # a file that says: do not open this store again
# Per key: one false positive in 500, each reads a block; with 10 bits all takes a tenth longer.
BLOOM_BITS = 14
MEMTABLE_BLOOM = 0.1  # of a write buffer's memory
# What is written is put in order in a small buffer, which a core's cache holds, and several go to
# disk as one file: marks come in no order, and each took nearly twice as long into one buffer of
# all their size.
BUFFERS, BUFFER_BYTES, BUFFER_BYTES_MIN = 6, 2 * 2**20, 256 * 1024
HOUR_S = 3600
ROOM_BYTES = 2**20  # a disk that takes so much is not full
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
    """The disk does not let us: it may later. The message says what is in the way."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What all stores of one process share: *stores* of them, with *write_bytes* that are not yet written out.

    Each has its part of those from the start: one that nobody writes to any more takes nothing from
    another. RocksDB makes no buffer smaller than 64 KiB, and puts a batch into one as a whole: that
    much may come on top.
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
        """A cache for what is read and a limit for what is not yet written out, both in MiB.

        *compression* is that of the files: rows take a third to half of the room with it. Marks,
        which are digests, take hardly less, and with millions of those it takes a quarter of all
        CPU.

        Not RocksDB's older cache: that one has a part of a MiB for each of 64 locks, a file's
        filter is larger than that and was read anew by nearly each look.
        """
        return cls(
            rocksdict.Cache.new_hyper_clock_cache(cache_mib * 2**20, 0),  # 0: entries of any size
            rocksdict.WriteBufferManager(write_buffer_mib * 2**20, allow_stall=False),
            write_buffer_mib * 2**20,
            compression,
        )

    def shared_by(self, stores: int) -> "Memory":
        """The same for so many stores: RocksDB's manager limits the buffers that fill, not those behind them."""
        return replace(self, stores=max(stores, 1))

    @property
    def store_buffers(self) -> tuple[int, int, int]:
        """How many buffers of a store go to disk together, how many it has at most, and the bytes of each."""
        share = self.write_bytes // self.stores
        together = max(1, min(BUFFERS, share // BUFFER_BYTES_MIN * 2 // 3))
        at_most = together + (together + 1) // 2  # the others fill while those are written out
        return together, at_most, min(share // at_most, BUFFER_BYTES)


class Store:
    """Rows by key, as bytes.

    *position* is the offset of the last changelog record in it, -1 for none.

    *home* is the changelog partition that it copies, None in a store of a version that did not note
    it. It is written with the first batch after it was set. Reading raises InvariantError when the
    bytes on disk are not what was written: the process ends, and the next one puts the store aside.
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
        """Open or create it; *is_new*: it was put aside just now, so whatever is wrong is not its bytes.

        Raises StoreError when the disk is full, not ours to write, or somebody else has it.
        """
        if (self.path / DAMAGED).exists():
            self._put_aside("its bytes were damaged")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = rocksdict.Rdict(str(self.path), self._options())
            self.position, self.epoch = self._number(POSITION, -1), self._number(EPOCH, 0)
            home = self._db.get(HOME)
            self.home = self._written_home = None if home is None else decode_home(home)
        except Exception as error:  # rocksdict raises nothing finer
            self.close()
            is_damaged = not (
                is_new or isinstance(error, OSError) or any(sign in str(error) for sign in WAITING)
            )
            if not is_damaged:
                raise StoreError(f"the state in {self.path} cannot be opened: {error}") from error
            self._put_aside(str(error))
            self.open(is_new=True)

    def close(self) -> None:
        """Close it; whatever is read or written from now on raises.

        After a write that failed RocksDB complains.
        """
        db, self._db = self._db, None
        try:
            if db is not None:
                db.close()
        except Exception as error:  # noqa: BLE001  # rocksdict raises nothing finer
            log.warning("a store was closed after a write that failed", error=str(error))

    @property
    def is_open(self) -> bool:
        """Whether it can be read."""
        return self._db is not None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:  # rocksdict raises nothing finer
            raise self._damaged(error) from error
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of *keys*, in their order, in one look."""
        try:
            values: list[bytes | None] = self._db.get(keys)
        except Exception as error:
            raise self._damaged(error) from error
        return values

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """What is kept under keys that begin with *prefix*, in order, from *prefix* and *start* on."""
        at = prefix + start
        for key, value in self._db.items(from_key=at):
            if not key.startswith(prefix):
                return
            at = key
            yield key, value
        self._check_end(at)

    def _check_end(self, at: bytes) -> None:
        """That nothing comes behind the key *at*: an iterator ends in silence where bytes cannot be read."""
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
        """An empty WriteBatch, for `write`."""
        return rocksdict.WriteBatch(raw_mode=True)

    def write(self, batch: Any, position: int, epoch: int) -> None:
        """Write *batch* and that the store now holds the changelog up to *position*, in one piece.

        Raises StoreError when the disk does not take it; then try again with `reopen` in between.
        It can be read meanwhile. A thread would gain nothing: rocksdict keeps the interpreter while
        RocksDB works.
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
        """Open it anew after a write that failed: RocksDB takes no further one otherwise.

        Raises StoreError. While there is no room it stays open to be read: opening needs some, too.
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
        """Begin with nothing, in the same home. Raises StoreError."""
        home = self.home
        self.close()
        shutil.rmtree(self.path, ignore_errors=True)
        self.open()
        self.home = home

    def begin_anew(self) -> Path:
        """Begin with nothing in no home, and keep what is there beside it: where that is.

        Raises StoreError.
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
        """Seconds since the last write."""
        return max(time.time() - self._number(WRITTEN, 0), 0.0)

    def _number(self, key: bytes, default: int) -> int:
        value = self._db.get(key)
        return default if value is None else int(value)

    def _damaged(self, error: Exception) -> Exception:
        if self._db is None:
            return StoreError(f"the state in {self.path} is closed")
        (self.path / DAMAGED).touch()
        return InvariantError(
            f"the state in {self.path} is damaged ({error}); it is rebuilt at the next start"
        )

    def _put_aside(self, why: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(aside)
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
        # Nearly all that is asked for is the mark of a new event, which is nowhere: say so without
        # a search.
        options.set_memtable_whole_key_filtering(whole_key_filter=True)
        options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM)
        options.set_keep_log_file_num(1)
        options.set_max_background_jobs(2)
        options.set_compression_type(
            getattr(rocksdict.DBCompressionType, self._memory.compression)()
        )
        return options


class StateFolder:
    """The folder of one process's stores: locked while it is in use, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    def lock(self) -> None:
        """Take it for this process.

        Raises ConfigError when another one has it, it is not ours, or the disk refuses.
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
        """Where the store of one partition is."""
        return self.path / topic / str(partition)

    def tidy(self, in_use: set[Path], older_than_h: float) -> None:
        """Remove the stores of partitions that went elsewhere, and damaged ones, when nobody wrote them for so long."""
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
