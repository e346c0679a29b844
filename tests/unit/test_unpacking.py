"""A compressed batch unpacks within a limit, or is a clear error before its memory is taken."""

import gc
import os
import random
import weakref
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record._crecords.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record._crecords.legacy_records import LegacyRecordBatch, LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from app.access.unpacking import BYTES_MAX, BatchTooLargeError, set_limit
from app.errors import UnreadableError
from app.worker.fetch import Packed, take

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = [GZIP, SNAPPY, LZ4, ZSTD]
SMALL = 2**20


@pytest.fixture
def small() -> Iterator[None]:
    """A limit that is quickly reached."""
    set_limit(SMALL)
    yield
    set_limit(BYTES_MAX)


def batch(codec: int, *values: bytes, header: str = "h", base_offset: int = 0) -> bytes:
    """A batch as a producer writes it."""
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=1, producer_epoch=1, base_sequence=1,
        batch_size=10**9,
    )  # fmt: skip
    for number, value in enumerate(values):
        builder.append(number, timestamp=1, key=b"k", value=value, headers=[(header, b"1")])
    built = bytearray(builder.build())
    built[:8] = base_offset.to_bytes(8, "big")
    return bytes(built)


def values_in(batch: bytes) -> list[bytes]:
    """What is in it."""
    return [record.value for record in DefaultRecordBatch(batch)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 10, 100_000, 900_000])
def test_what_is_within_the_limit_comes_out(small: None, codec: int, size: int) -> None:
    """Whether it packs well or not at all."""
    values = [bytes(size), os.urandom(100)]
    assert values_in(batch(codec, *values)) == values
    assert values_in(batch(codec, os.urandom(size))) != [bytes(size + 1)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_refused(small: None, codec: int) -> None:
    """One that is a little too large, and one that is much too large."""
    for size in (SMALL + 1, 50 * SMALL):
        with pytest.raises(BatchTooLargeError, match=r"1048576 bytes \(Kafka.ConsumerConfig.MaxUnpackedBytes"):
            values_in(batch(codec, bytes(size)))


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4])
def test_an_old_message_has_the_same_limit(small: None, codec: int) -> None:
    """Of the format before Kafka 0.11."""
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=codec, batch_size=10**9)
    builder.append(0, timestamp=1, key=b"k", value=bytes(2 * SMALL))
    with pytest.raises(BatchTooLargeError):
        list(LegacyRecordBatch(bytes(builder.build()), 1))


def test_a_size_that_snappy_only_claims_is_not_believed(small: None) -> None:
    """It is allocated before anything is unpacked."""
    claims = b"\xff\xff\xff\xff\x0f" + b"\0" * 10  # 4 GiB
    with pytest.raises(BatchTooLargeError):
        values_in(batch(SNAPPY, b"x")[:61] + claims)


@given(codec=st.sampled_from(CODECS), seed=st.integers(0, 2**32), flips=st.integers(1, 20))
def test_damage_is_an_error_of_kafkas(codec: int, seed: int, flips: int) -> None:
    """Whatever is wrong in it: nothing else is raised than what readers expect, and nothing crashes."""
    chosen = random.Random(seed)
    damaged = bytearray(batch(codec, *[chosen.randbytes(40) * 3 for _ in range(20)]))
    for _ in range(flips):
        damaged[chosen.randrange(61, len(damaged))] = chosen.randrange(256)
    with suppress(CorruptRecordException, UnicodeDecodeError):
        list(DefaultRecordBatch(bytes(damaged)))


def packed(*batches: bytes) -> Packed:
    """A fetch with these batches."""
    waiting = [DefaultRecordBatch(each) for each in batches]
    records = SimpleNamespace(has_next=lambda: bool(waiting), next_batch=lambda: waiting.pop(0))
    fetched: Any = SimpleNamespace(
        _tp=TopicPartition("t", 3), _records=records, next_fetch_offset=0, _check_crcs=False, _isolation_level=0
    )
    return Packed(fetched)


def test_what_stands_before_a_bomb_comes_first_and_nothing_behind_it(small: None) -> None:
    """The error is raised again and again: whoever goes on asking must not get what follows."""
    chunks = packed(
        batch(LZ4, b"1", b"2", b"3"), batch(ZSTD, bytes(2 * SMALL), base_offset=3), batch(0, b"5", base_offset=4)
    ).records(2)
    assert [[record.value for record in next(chunks)] for _ in range(2)] == [[b"1", b"2"], [b"3"]]
    for _ in range(3):
        with pytest.raises(
            UnreadableError, match=r"t-3: the records from offset 3 on cannot be read: .*its group to offset 4 and"
        ):
            next(chunks)


def test_a_headers_name_that_is_no_text_is_an_error_that_says_so() -> None:
    """The client cannot read such a record, and no broker refuses it."""
    bad = batch(0, b"1", header="name").replace(b"name", b"n\xffme")
    with pytest.raises(UnreadableError, match="a header's name is not UTF-8"):
        packed(bad).consumer_records()


async def test_what_was_handled_is_let_go_of_at_once() -> None:
    """Without the garbage collector, which comes once in millions of events: each fetch may be a megabyte."""
    place = TopicPartition("t", 0)
    fetched = PartitionRecords(place, MemoryRecords(batch(LZ4, b"1", b"2")), [], 0, None, None, True, READ_COMMITTED)  # noqa: FBT003  # aiokafka's
    state = SimpleNamespace(paused=False, position=0, consumed_to=lambda _: None)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    result = FetchResult(place, assignment=assignment, partition_records=fetched, backoff=0)
    waiting = {place: result}

    async def fetched_records(partitions: object, timeout: float) -> dict[TopicPartition, Any]:  # noqa: ASYNC109  # aiokafka's
        return {place: waiting.pop(place).getall(None)}

    left = weakref.ref(fetched), weakref.ref(result)
    del fetched, result
    gc.disable()
    try:
        taken = await take(SimpleNamespace(_records=waiting, fetched_records=fetched_records), [place], 0)
        assert [record.value for chunk in taken.pop(place).records(10) for record in chunk] == [b"1", b"2"]
        assert [thing() for thing in left] == [None, None]
    finally:
        gc.enable()
