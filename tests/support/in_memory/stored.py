"""Stand-ins for what a partition stands on: a store in memory, records without a broker."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from famulus.serialization.records import Headers
from famulus.state.identity import ChangelogPartition, decode_home, encode_home
from famulus.state.partition_state import PartitionState
from famulus.state.rocksdb_store import EPOCH, HOME, POSITION, StoreError


class Memory:
    """Stands for a store: rows in memory. *asked* notes which were looked up."""

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.rows = rows or {}
        self.asked: list[bytes] = []
        self.is_open = True

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        self.asked.append(key)
        return self.rows.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The values of *keys*."""
        return [self.get(key) for key in keys]


def partition_of(
    rows: dict[bytes, bytes] | None = None, group_bytes: int = 10_000
) -> PartitionState:
    """A partition whose store holds *rows*."""
    store: Any = Memory(rows)
    return PartitionState(0, store, group_bytes)


def record(offset: int = 0, timestamp: int = 0, headers: Headers = ()) -> Any:
    """A record as it comes from Kafka."""
    return SimpleNamespace(
        topic="t",
        partition=0,
        offset=offset,
        timestamp=timestamp,
        key=b"k",
        value=b"v",
        headers=headers,
    )


class Batch:
    """Stands for a WriteBatch."""

    def __init__(self) -> None:
        self.done: list[tuple[bytes, bytes | None]] = []

    def put(self, key: bytes, value: bytes) -> None:
        """Set a key."""
        self.done.append((key, value))

    def delete(self, key: bytes) -> None:
        """Delete a key."""
        self.done.append((key, None))


class MemoryStore(Memory):
    """A store whose *disk* is a dict that outlives it."""

    def __init__(self, disk: dict[bytes, bytes]) -> None:
        super().__init__(disk)
        self.rows = disk
        self.is_open = False
        self.position, self.epoch = -1, 0
        self.home: ChangelogPartition | None = None
        self.path = None

    def open(self) -> None:
        """As the disk says."""
        self.is_open = True
        self.position, self.epoch = int(self.rows.get(POSITION, -1)), int(self.rows.get(EPOCH, 0))
        self.home = decode_home(self.rows[HOME]) if HOME in self.rows else None

    def close(self) -> None:
        """Nothing is read or written from now on."""
        self.is_open = False

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys in order."""
        return iter(
            [
                (k, v)
                for k, v in sorted(self.rows.items())
                if k.startswith(prefix) and k >= prefix + start
            ]
        )

    def batch(self) -> Batch:
        """For `write`."""
        return Batch()

    def write(self, batch: Batch, position: int, epoch: int) -> None:
        """All of it, in its order."""
        if not self.is_open:
            raise StoreError("closed")
        for key, value in batch.done:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self.rows |= {POSITION: b"%d" % position, EPOCH: b"%d" % epoch}
        if self.home is not None:
            self.rows[HOME] = encode_home(self.home)
        self.position, self.epoch = position, epoch

    def wipe(self) -> None:
        """Begin with nothing."""
        home = self.home
        self.rows.clear()
        self.open()
        self.home = home

    def age_s(self) -> float:
        """Always young."""
        return 0.0
