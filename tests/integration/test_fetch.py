"""Unpacking later than aiokafka does changes nothing: the same records, the same position, the same holes crossed."""

import contextlib
import time
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from famulus.config import KafkaConfig
from famulus.consumer import fetcher as fetch

Seen = list[tuple[int, int, int, bytes | None, bytes | None, list[tuple[str, bytes]]]]


@pytest.fixture
def topic(kafka: KafkaConfig, make_topics: Callable[..., None]) -> str:
    """A topic of four partitions."""
    make_topics("fetched")
    return kafka.topic("fetched")


async def write(kafka: KafkaConfig, topic: str) -> None:
    """Plain records, tombstones, headers, two compressions; then transactions, of which every other one is aborted."""
    for compression in ("lz4", None):
        async with AIOKafkaProducer(
            bootstrap_servers=kafka.bootstrap_servers,
            compression_type=compression,
            max_batch_size=400,
        ) as producer:
            for number in range(60):
                value = None if number % 10 == 0 else b"x" * number
                headers = [("n", str(number).encode())] * (number % 3)
                await producer.send_and_wait(
                    topic,
                    value,
                    key=b"k%d" % number,
                    partition=number % 2,
                    headers=headers,
                    timestamp_ms=1_000 + number,
                )
    async with AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, transactional_id=topic
    ) as producer:
        for number in range(6):
            with contextlib.suppress(InterruptedError):
                async with producer.transaction():
                    for partition in (0, 1, 2):
                        await producer.send(topic, b"t%d" % number, partition=partition)
                    if number % 2:
                        raise InterruptedError


def reader(kafka: KafkaConfig) -> AIOKafkaConsumer:
    """A consumer as the worker's, that fetches little at a time."""
    return AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        isolation_level="read_committed",
        max_partition_fetch_bytes=600,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )


def seen(
    record: fetch.FetchedRecord,
) -> tuple[int, int, int, bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """What a handler could know of a record."""
    return (
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        list(record.headers),
    )


@pytest.mark.parametrize("lean", [True, False])
async def test_the_same_records_and_positions_as_aiokafka_itself(
    kafka: KafkaConfig, topic: str, lean: bool
) -> None:  # a parameter of the test
    """Whatever the limit, through compressed batches, tombstones, aborted transactions and their markers."""
    await write(kafka, topic)
    places = [TopicPartition(topic, partition) for partition in range(4)]
    theirs, ours = Seen(), Seen()
    async with reader(kafka) as plain, reader(kafka) as lazy:
        for consumer in (plain, lazy):
            consumer.assign(places)
        found = await plain.end_offsets(places)
        ends = [found[place] for place in places]
        deadline = time.monotonic() + 20
        while [await plain.position(place) for place in places] != ends:
            for records in (await plain.getmany(*places, timeout_ms=200)).values():
                theirs += map(seen, records)
            assert time.monotonic() < deadline
        while [await lazy.position(place) for place in places] != ends:
            for packed in (await fetch.take(lazy._fetcher, places, 0.2)).values():
                if lean:
                    for records in packed.records(7):
                        assert 0 < len(records) <= 7
                        ours += map(seen, records)
                else:
                    ours += map(seen, packed.consumer_records())
            assert time.monotonic() < deadline
    assert sorted(ours) == sorted(theirs)
    assert [record for record in ours if record[0] == 0] == [
        record for record in theirs if record[0] == 0
    ]
    assert {record[4] for record in ours if record[0] == 2} == {b"t0", b"t2", b"t4"}
    assert len(ours) == 2 * 60 + 3 * 3


async def test_a_partition_that_is_not_asked_for_keeps_what_was_fetched(
    kafka: KafkaConfig, topic: str
) -> None:
    """A held partition loses nothing while others go on, and a wait for nothing ends in time."""
    await write(kafka, topic)
    first, second = TopicPartition(topic, 0), TopicPartition(topic, 1)
    async with reader(kafka) as consumer:
        consumer.assign([first, second])
        while not (taken := await fetch.take(consumer._fetcher, [second], 5)):
            pass
        assert set(taken) == {second}
        [records, *_] = (await fetch.take(consumer._fetcher, [first], 5))[first].records(500)
        assert records[0].offset == 0
        assert await fetch.take(consumer._fetcher, [TopicPartition(topic, 3)], 0.05) == {}
