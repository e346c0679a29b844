"""Tests of leader epochs: read from fetched batches, kept with the position, checked at a start."""

import struct

import pytest
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from famulus.errors import ConfigError
from famulus.kafka.leader_epochs import UNKNOWN, last_epoch
from famulus.kafka.record_batches import Batches
from famulus.processing.in_flight import InFlight
from famulus.state.changelog import SourcePosition
from famulus.state.identity import check_leader_epoch


def batch(epoch: int) -> bytes:
    """Return a batch of one record, as a leader with *epoch* appends it."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    builder.append(0, 1, b"k", b"v", [])
    raw = bytearray(builder.build())
    struct.pack_into(">i", raw, 12, epoch)
    return bytes(raw)


def test_the_last_batch_that_is_whole_says_the_epoch() -> None:
    """Brokers cut a fetch at its size limit; batches before version 2 have no epoch."""
    assert last_epoch(batch(3)) == 3
    assert last_epoch(batch(3) + batch(4)) == 4
    assert last_epoch(batch(3) + batch(4)[:17]) in {3, 4}  # a later epoch will do too
    assert last_epoch(batch(3) + batch(4)[:16]) == 3
    old = bytearray(batch(3))
    old[16] = 1
    for data in b"", bytes(old), bytes(100), b"\xff" * 100:
        assert last_epoch(data) == UNKNOWN


def test_the_fetcher_reads_as_before_and_knows_the_epoch() -> None:
    """The fetcher of aiokafka uses the replaced class."""
    assert fetcher.MemoryRecords is Batches
    records = Batches(batch(5) + batch(6))
    assert records.leader_epoch == 6
    values = []
    while records.has_next():
        values += [record.value for record in records.next_batch()]
    assert values == [b"v", b"v"]


def test_the_position_goes_with_the_newest_epoch_that_was_read() -> None:
    """An assignment in which no record arrives keeps the epoch of the position."""
    in_flight = InFlight(SourcePosition(7, leader_epoch=4), 10, 1_000)
    assert in_flight.processed(0, {}).leader_epoch == 4
    in_flight.leader_epoch = 5
    assert in_flight.processed(0, {}).leader_epoch == 5


def test_records_of_an_epoch_that_end_before_the_position_were_truncated() -> None:
    """The error names the lost records and the command that seeks to their first offset."""
    with pytest.raises(
        ConfigError, match=r"t-3: .*records 60 to 99 .*--partition 3 --to-offset 60"
    ):
        check_leader_epoch("t", 3, 100, 60)
    for end in None, 100, 130:
        check_leader_epoch("t", 3, 100, end)
