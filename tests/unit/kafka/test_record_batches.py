"""Tests of record batches: limits of unpacking, and damaged or unreadable batches."""

import gc
import os
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException
from aiokafka.record._crecords.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record._crecords.legacy_records import LegacyRecordBatch, LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from famulus.consumer.fetcher import Damaged, FetchedBatch, take
from famulus.errors import UnreadableError
from famulus.kafka.decompression import BYTES_MAX, BatchTooLargeError, set_limit
from famulus.kafka.record_batches import TRIES, Batches, PartitionRecords, UnreadableBatchError

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = [GZIP, SNAPPY, LZ4, ZSTD]
SMALL = 2**20


@pytest.fixture
def small() -> Iterator[None]:
    """Set a limit of unpacked bytes that is quickly reached."""
    set_limit(SMALL)
    yield
    set_limit(BYTES_MAX)


def batch(codec: int, *values: bytes, header: str = "h", base_offset: int = 0) -> bytes:
    """Return a batch as a producer writes it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=1,
        producer_epoch=1,
        base_sequence=1,
        batch_size=10**9,
    )
    for number, value in enumerate(values):
        builder.append(number, timestamp=1, key=b"k", value=value, headers=[(header, b"1")])
    built = bytearray(builder.build())
    built[:8] = base_offset.to_bytes(8, "big")
    return bytes(built)


def values_in(batch: bytes) -> list[bytes]:
    """Return the values of *batch*."""
    return [record.value for record in DefaultRecordBatch(batch)]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [0, 10, 100_000, 900_000])
def test_what_is_within_the_limit_comes_out(small: None, codec: int, size: int) -> None:
    """Values that compress well, and random ones that do not, are unpacked."""
    values = [bytes(size), os.urandom(100)]
    assert values_in(batch(codec, *values)) == values
    assert values_in(batch(codec, os.urandom(size))) != [bytes(size + 1)]


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_is_refused(small: None, codec: int) -> None:
    """One batch is slightly too large, another is much too large."""
    for size in (SMALL + 1, 50 * SMALL):
        with pytest.raises(
            BatchTooLargeError, match=r"1048576 bytes \(Kafka.ConsumerConfig.MaxUnpackedBytes"
        ):
            values_in(batch(codec, bytes(size)))


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4])
def test_an_old_message_has_the_same_limit(small: None, codec: int) -> None:
    """The message format is the one before Kafka 0.11."""
    builder = LegacyRecordBatchBuilder(magic=1, compression_type=codec, batch_size=10**9)
    builder.append(0, timestamp=1, key=b"k", value=bytes(2 * SMALL))
    with pytest.raises(BatchTooLargeError):
        list(LegacyRecordBatch(bytes(builder.build()), 1))


def test_a_size_that_snappy_only_claims_is_not_believed(small: None) -> None:
    """Snappy allocates the claimed size before it unpacks anything."""
    claims = b"\xff\xff\xff\xff\x0f" + b"\0" * 10  # 4 GiB
    with pytest.raises(BatchTooLargeError):
        values_in(batch(SNAPPY, b"x")[:61] + claims)


@given(codec=st.sampled_from(CODECS), seed=st.integers(0, 2**32), flips=st.integers(1, 20))
def test_damage_is_an_error_of_kafkas(codec: int, seed: int, flips: int) -> None:
    """Readers expect only these two errors."""
    chosen = random.Random(seed)
    damaged = bytearray(batch(codec, *[chosen.randbytes(40) * 3 for _ in range(20)]))
    for _ in range(flips):
        damaged[chosen.randrange(61, len(damaged))] = chosen.randrange(256)
    with suppress(CorruptRecordException, UnicodeDecodeError):
        list(DefaultRecordBatch(bytes(damaged)))


def packed(*batches: bytes) -> FetchedBatch:
    """Return a fetch of *batches*."""
    fetched: Any = SimpleNamespace(
        _tp=TopicPartition("t", 3),
        _records=Batches(b"".join(batches)),
        next_fetch_offset=0,
        _check_crcs=False,
        _isolation_level=0,
    )
    return FetchedBatch(fetched)


def test_what_stands_before_a_bomb_comes_first_and_nothing_behind_it(small: None) -> None:
    """Each further call raises the error again, so that no caller gets the records behind it."""
    chunks = packed(
        batch(LZ4, b"1", b"2", b"3"),
        batch(ZSTD, bytes(2 * SMALL), base_offset=3),
        batch(0, b"5", base_offset=4),
    ).records(2)
    assert [[record.value for record in next(chunks)] for _ in range(2)] == [[b"1", b"2"], [b"3"]]
    for _ in range(3):
        with pytest.raises(
            UnreadableError,
            match=r"t-3: the records from offset 3 to 3 cannot be read: it unpacks to more than",
        ):
            next(chunks)


def test_a_headers_name_that_is_no_text_is_an_error_that_says_so() -> None:
    """The client cannot read such a record, although every broker accepts it."""
    bad = batch(0, b"1", header="name").replace(b"name", b"n\xffme")
    with pytest.raises(UnreadableError, match="a header's name is not UTF-8"):
        packed(bad).consumer_records()


async def test_what_was_handled_is_let_go_of_at_once() -> None:
    """The garbage collector runs once in millions of events, and each fetch may hold a megabyte."""
    place = TopicPartition("t", 0)
    fetched = PartitionRecords(
        place, Batches(batch(LZ4, b"1", b"2")), [], 0, None, None, True, READ_COMMITTED
    )  # aiokafka's
    state = SimpleNamespace(paused=False, position=0, consumed_to=lambda _: None)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    result = FetchResult(place, assignment=assignment, partition_records=fetched, backoff=0)
    waiting = {place: result}

    # The signature is aiokafka's.
    async def fetched_records(partitions: object, timeout: float) -> dict[TopicPartition, Any]:
        return {place: waiting.pop(place).getall(None)}

    left = weakref.ref(fetched), weakref.ref(result)
    del fetched, result
    gc.disable()
    try:
        taken = await take(
            SimpleNamespace(_records=waiting, fetched_records=fetched_records), [place], 0
        )
        assert [record.value for chunk in taken.pop(place).records(10) for record in chunk] == [
            b"1",
            b"2",
        ]
        assert [thing() for thing in left] == [None, None]
    finally:
        gc.enable()


PLACE = TopicPartition("t", 0)


class Fetches:
    """Stand-in for aiokafka's fetcher, with one answer of a broker per fetch.

    *answer* gets the position and the number of the fetch.
    """

    def __init__(self, answer: Callable[[int, int], bytes]) -> None:
        self.position = 0
        self.count = 0
        self._answer = answer
        self._records: dict[TopicPartition, FetchResult] = {}
        self._state = SimpleNamespace(paused=False, position=0, consumed_to=self._consumed_to)

    def _consumed_to(self, position: int) -> None:
        self._state.position = position

    def fetch(self) -> None:
        """Fetch the next answer."""
        self.count += 1
        position = self._state.position
        raw = Batches(self._answer(position, self.count))
        # The arguments are aiokafka's.
        fetched = PartitionRecords(PLACE, raw, [], position, None, None, True, READ_COMMITTED)
        assignment = SimpleNamespace(active=True, state_value=lambda _: self._state)
        self._records[PLACE] = FetchResult(
            PLACE, assignment=assignment, partition_records=fetched, backoff=0
        )

    async def fetched_records(
        self,
        partitions: object,
        timeout: float,  # aiokafka's
    ) -> dict[TopicPartition, Any]:
        """Return the records of the last fetch."""
        taken = self._records.pop(PLACE).getall(None)
        return {PLACE: taken} if taken else {}


def flipped(raw: bytes, at: int) -> bytes:
    """Return *raw* with one byte changed."""
    return raw[:at] + bytes([raw[at] ^ 0x40]) + raw[at + 1 :]


ONE, TWO, THREE = (
    batch(0, b"0", b"1"),
    batch(ZSTD, b"2", b"3", base_offset=2),
    batch(0, b"4", base_offset=4),
)
# The changed byte of the second batch: in its length, which becomes longer than the data or
# shorter than a header; in its checksum; in the offset delta of its last record; in its records.
PLACES = {"longer": 8, "length": 11, "checksum": 18, "last": 26, "records": -3}


@pytest.mark.parametrize("at", PLACES.values(), ids=list(PLACES))
async def test_a_batch_that_is_damaged_is_fetched_again_and_then_a_fault(at: int) -> None:
    """The records before it arrive, nothing is skipped, and the fault names the offsets."""
    bad = flipped(TWO, at % len(TWO))
    fetches, damaged = (
        Fetches(lambda position, _: {0: ONE + bad + THREE, 2: bad + THREE}[position]),
        Damaged(),
    )
    found: list[FetchedBatch] = []
    while not (found and found[-1].fault):
        assert fetches.count < 2 * TRIES
        fetches.fetch()
        found += (await take(fetches, [PLACE], 0, damaged)).values()
    assert [
        [record.value for chunk in packed.records(9) for record in chunk] for packed in found[:-1]
    ] == [[b"0", b"1"]]
    assert fetches.count == 1 + TRIES
    with pytest.raises(
        UnreadableError, match=r"t-0: the records from offset 2 .*cannot be read: its bytes are"
    ):
        next(found[-1].records(9))
    fault = found[-1].fault
    assert fault is not None
    assert (fault.first_offset, fault.is_stray, found[-1].next_offset) == (2, False, 2)
    if at == PLACES["records"]:
        assert fault.next_offset == 4


@pytest.mark.parametrize("at", PLACES.values(), ids=list(PLACES))
async def test_a_batch_that_was_damaged_on_its_way_is_as_if_it_were_not(at: int) -> None:
    """All records arrive once and in order."""
    log = {0: ONE + TWO + THREE, 2: TWO + THREE, 4: THREE}
    bad = {0: ONE + flipped(TWO, at % len(TWO)) + THREE, 2: flipped(TWO, at % len(TWO)) + THREE}
    fetches = Fetches(
        lambda position, count: (bad if count % 3 and position in bad else log)[position]
    )
    damaged, found = Damaged(), list[bytes]()
    while len(found) < 5:
        assert fetches.count < 20
        fetches.fetch()
        for packed in (await take(fetches, [PLACE], 0, damaged)).values():
            found += [record.value for chunk in packed.records(9) for record in chunk]
    assert found == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("at", PLACES.values(), ids=list(PLACES))
def test_other_readers_learn_the_same(at: int) -> None:
    """A reader with aiokafka's own consumer gets the earlier records, then the error."""
    raw = Batches(ONE + flipped(TWO, at % len(TWO)) + THREE)
    records = PartitionRecords(PLACE, raw, [], 0, None, None, True, READ_COMMITTED)  # aiokafka's
    found: list[bytes] = []
    with suppress(StopIteration):
        while True:
            try:
                found.append(next(records).value)
            except UnreadableBatchError as error:
                # The records before it have arrived by then.
                assert (error.place, error.first_offset, error.is_damaged) == (PLACE, 2, True)
                break
    assert found == [b"0", b"1"]


def test_what_nobody_of_us_wrote_is_no_damage() -> None:
    """Checksums are off here, so the batch counts as intact: another fetch would not help."""
    bad = batch(0, b"1", header="name").replace(b"name", b"n\xffme")
    crc = DefaultRecordBatch(bad)
    assert not crc.validate_crc()
    # The arguments are aiokafka's.
    records = PartitionRecords(
        PLACE, Batches(bad + THREE), [], 0, None, None, False, READ_COMMITTED
    )
    with pytest.raises(UnreadableBatchError, match="a header's name is not UTF-8") as caught:
        next(records)
    assert (caught.value.is_stray, caught.value.first_offset, caught.value.next_offset) == (
        True,
        0,
        1,
    )
