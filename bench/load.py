"""What the measured systems read: kinds of records, topics filled with them, topics that they drip into."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import orjson
from aiokafka import AIOKafkaProducer

from famulus.config import KafkaConfig
from famulus.kafka.admin import create_topics
from famulus.kafka.group_progress import GroupProgress
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

KEYS = [str(UUID(int=number)) for number in range(1_000)]
RATE = 1_000  # events per second that drip
CHUNK = 5_000  # records that are sent together
REPEATED = 50  # one record of so many repeats an earlier one: 2 %
Kind = Callable[[str, int], ProducerRecord]  # the record of a number, for a topic


def plain(topic: str, number: int) -> ProducerRecord:
    """An order of two lines, 321 bytes as JSON, created now, of one of a thousand customers."""
    return _order(topic, number, KEYS[number % len(KEYS)])


def identified(topic: str, number: int) -> ProducerRecord:
    """Such an order with its id in CloudEvents headers too; one in fifty repeats the order of 40 numbers before."""
    number -= 40 if number % REPEATED == REPEATED - 1 else 0
    identity = [("ce_id", str(UUID(int=number)).encode()), ("ce_source", b"bench")]
    return _order(topic, number, KEYS[number % len(KEYS)], identity)


def distinct(topic: str, number: int) -> ProducerRecord:
    """Such an order of a customer of its own."""
    return _order(topic, number, str(UUID(int=number)))


def small(topic: str, number: int) -> ProducerRecord:
    """An event that is little more than its id."""
    key = KEYS[number % len(KEYS)]
    value = b'{"customer_id":"%b"}' % key.encode()
    return ProducerRecord(
        topic, key.encode(), value, [("ce_id", b"%d" % number), ("ce_source", b"bench")]
    )


def unique(count: int) -> int:
    """How many different orders there are among *count* identified ones."""
    return count - count // REPEATED


def _order(
    topic: str, number: int, customer_id: str, headers: list[tuple[str, bytes]] | None = None
) -> ProducerRecord:
    line = {"product_id": f"product-{number % 500:05}", "quantity": 3, "price": 19.99}
    event = {
        "order_id": str(UUID(int=number)),
        "customer_id": customer_id,
        "total_amount": 119.94,
        "created_at": datetime.now(UTC).isoformat(),
        "items": [line, line],
    }
    return ProducerRecord(topic, customer_id.encode(), orjson.dumps(event), headers or ())


async def fill(kafka: KafkaConfig, topic: str, kind: Kind, count: int) -> None:
    """Write *count* records to *topic*, as fast as it goes.

    The topic is made when it is missing.
    """
    await create_topics(
        kafka, {topic: kafka.partitions, f"{topic}.dead-letter": kafka.partitions}, 10
    )
    async with Producer(kafka) as producer:
        for first in range(0, count, CHUNK):
            await producer.send_all(
                [kind(topic, number) for number in range(first, min(first + CHUNK, count))]
            )


async def drip(kafka: KafkaConfig, topic: str, count: int) -> None:
    """Write *count* orders at a steady rate, on schedule however long a send takes."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=0) as producer:
        began, pending = time.perf_counter(), []
        for number in range(count):
            if (early_s := began + number / RATE - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            record = plain(topic, number)
            pending.append(await producer.send(topic, record.value, key=record.key))
        await asyncio.gather(*pending)


async def settle(kafka: KafkaConfig, group: str, topic: str, timeout_s: float) -> None:
    """Wait until *group* has committed everything in *topic*. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s), GroupProgress(kafka, group) as monitor:
        while (await monitor.progress([topic]))[topic].lag:  # only asking tells
            await asyncio.sleep(0.2)
