"""The files in which a broker keeps the records of a partition: where a batch stands, and how a byte of it changes.

A segment is one record batch after the other: offset of the first record (int64), length of what
follows (int32), and at byte 23 by how much the last record's offset is more (int32), see
https://kafka.apache.org/documentation/#recordbatch.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.cluster import Cluster
from torture.errors import TortureError

HEAD = struct.Struct(">qi")
LAST_DELTA = struct.Struct(">i")
LAST_DELTA_AT = 23
RECORDS_AT = 61


def batches(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of each batch: the offsets of its first and its last record, where it begins in *data*, and its bytes."""
    at = 0
    while at + RECORDS_AT <= len(data):
        first, length = HEAD.unpack_from(data, at)
        if length <= 0:  # the file is longer than what was written
            return
        size = HEAD.size + length
        yield first, first + LAST_DELTA.unpack_from(data, at + LAST_DELTA_AT)[0], at, size
        at += size


def place_of(folder: Path, offset: int) -> tuple[Path, int]:
    """The segment of a partition, and the byte in it, where the records of the batch with *offset* begin."""
    for path in sorted(folder.glob("*.log"), reverse=True):
        for first, last, at, _ in batches(path.read_bytes()):
            if first <= offset <= last:
                return path, at + RECORDS_AT
    raise TortureError(f"there is no batch with offset {offset} in {folder}")


def change(path: Path, at: int) -> None:
    """Turn one byte of a file into another; the second time into what it was."""
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


@contextmanager
def stopped(cluster: Cluster) -> Iterator[Path]:
    """Have the broker stopped in order, so that it takes its files as they are afterwards: where its logs are."""
    cluster.node.ask_to_stop()
    cluster.node.wait_stopped()
    try:
        yield cluster.node.folder / "log"
    finally:
        cluster.broker.restart(cluster.node)
