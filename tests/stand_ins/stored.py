"""Stand-ins for what a partition stands on: a store in memory, records without a broker."""

from types import SimpleNamespace
from typing import Any

from app.state.partition import Partition
from app.wire.envelope import Headers


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


def partition_of(rows: dict[bytes, bytes] | None = None, group_bytes: int = 10_000) -> Partition:
    """A partition whose store holds *rows*."""
    store: Any = Memory(rows)
    return Partition(0, store, group_bytes)


def record(offset: int = 0, timestamp: int = 0, headers: Headers = ()) -> Any:
    """A record as it comes from Kafka."""
    return SimpleNamespace(
        topic="t", partition=0, offset=offset, timestamp=timestamp, key=b"k", value=b"v", headers=headers
    )
