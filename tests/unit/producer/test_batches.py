"""Tests of record batches that the producer builds."""

import cramjam
import pytest
from aiokafka.record._crecords.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from famulus.producer.batches import lz4

LZ4 = 3
INDEPENDENT_BLOCKS = 0x20


def batch(value: bytes) -> bytes:
    """Return a batch as a producer writes it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=LZ4,
        is_transactional=0,
        producer_id=1,
        producer_epoch=1,
        base_sequence=1,
        batch_size=10**9,
    )
    builder.append(0, timestamp=1, key=b"k", value=value, headers=[])
    return bytes(builder.build())


@pytest.mark.parametrize("size", [1_000, 70_000, 900_000])
def test_batches_are_packed_by_lz4_in_its_fast_way(size: int) -> None:
    """Java's client compresses alike; brokers accept only independent blocks (KIP-57)."""
    value = b"".join(b"%d," % (number * number) for number in range(size // 8))
    packed = batch(value)
    assert [record.value for record in DefaultRecordBatch(packed)] == [value]
    frame = packed[packed.index(b"\x04\x22\x4d\x18") :]
    assert frame[4] & INDEPENDENT_BLOCKS
    dense = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
    dense.compress(value)
    assert len(bytes(dense.finish())) < len(lz4(value)) <= len(frame) < len(value)
