"""A producer that goes on with a new connection, on a real Kafka: what others send meanwhile arrives, once."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from famulus.config import KafkaConfig
from famulus.errors import UnsentError
from famulus.producer.fallback_delivery import deliver
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord
from tests.integration.test_worker import read_all

ROUNDS, SENDERS = 30, 8


def test_a_new_connection_takes_nothing_from_those_who_send(
    kafka: KafkaConfig, make_topics: Callable[..., None]
) -> None:
    """Neither from changelogs nor from events: what could not be sent by the old one would end the worker."""
    make_topics("things")
    topic = kafka.topic("things")
    sent: list[bytes] = []

    async def run() -> None:
        async with Producer(kafka) as producer:
            is_over = False

            async def batches(partition: int) -> None:
                number = 0
                while not is_over:
                    rows = [
                        (b"%d" % partition, b"batch %d %d %d" % (partition, number, n))
                        for n in range(20)
                    ]
                    await (await producer.send_batch(topic, partition, rows, []))
                    sent.extend(value for _, value in rows)
                    number += 1

            async def events(partition: int) -> None:
                number = 0
                while not is_over:
                    value = b"event %d %d" % (partition, number)
                    await deliver(producer, [ProducerRecord(topic, b"k", value, (), partition % 4)])
                    sent.append(value)
                    number += 1

            senders = [asyncio.create_task(batches(number % 4)) for number in range(SENDERS)]
            senders += [asyncio.create_task(events(number)) for number in range(SENDERS)]
            for _ in range(ROUNDS):
                await asyncio.sleep(0.03)
                await producer.renew()
            is_over = True
            await asyncio.gather(*senders)

    asyncio.run(run())
    found = [
        record.value
        for record in read_all(kafka, "things")
        if (record.value or b"").startswith(b"event")
    ]
    assert sorted(found) == sorted(value for value in sent if value.startswith(b"event"))
    assert len(found) > ROUNDS


def test_what_is_too_large_needs_no_new_connection(
    kafka: KafkaConfig, make_topics: Callable[..., None]
) -> None:
    """What the topic takes is known: the smaller one leaves in its place, and the others as they are."""
    make_topics("things")
    topic = kafka.topic("things")

    async def run() -> None:
        async with Producer(kafka) as producer:
            connection = producer._connection
            small = ProducerRecord(topic, b"k", b"small", (), 0)
            large = ProducerRecord(topic, b"k", bytes(3_000_000), (), 0)
            larger = ProducerRecord(
                topic,
                b"k",
                bytes(4_000_000),
                (),
                0,
                fallback=ProducerRecord(topic, b"k", large.value, (), 0, fallback=small),
            )
            await deliver(producer, [small, larger, small])
            with suppress(UnsentError):
                await deliver(producer, [small, large])
                raise AssertionError("it was sent")
            assert producer._connection is connection

    asyncio.run(run())
    assert [record.value for record in read_all(kafka, "things")] == [b"small"] * 3
