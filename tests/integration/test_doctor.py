"""The doctor on a real Kafka: what it finds is what was planted there."""

import asyncio
import json
import time
from pathlib import Path

from aiokafka import AIOKafkaProducer

from famulus.config import KafkaConfig
from famulus.kafka.admin import create_topics
from famulus.kafka.partitioner import consistent_random
from tests.integration.conftest import PARTITIONS, settings_of
from tests.support.on_kafka.commands import faust, one_line

DAY_MS = 86_400_000


def found(
    kafka: KafkaConfig, folder: Path, *arguments: str
) -> tuple[int, set[tuple[str, str, str]]]:
    """The exit code, and severity, name and topic (without the test's prefix) of each finding on the cluster."""
    code, output = faust("doctor", "--json", *arguments, **settings_of(kafka, folder))
    findings = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return code, {
        (of["severity"], of["check"], of["subject"].removeprefix(kafka.topic_prefix))
        for of in findings
        if of["subject"].startswith(kafka.topic_prefix)
    }


def test_a_house_without_topics_and_then_with_them(kafka: KafkaConfig, tmp_path: Path) -> None:
    """What `topics apply` makes has no findings: not even for what people would regret."""
    code, findings = found(kafka, tmp_path)
    assert code == 1
    assert {
        ("error", "topic-missing", "order-events"),
        ("error", "topic-missing", "order-events.dead-letter"),
    } <= findings
    _, output = faust("topics", "plan", **settings_of(kafka, tmp_path))
    assert f"{kafka.topic('order-events')}: to be created, with {PARTITIONS} partitions" in output
    assert faust("topics", "apply", **settings_of(kafka, tmp_path))[0] == 0
    assert found(kafka, tmp_path) == (0, set())


def test_what_is_planted_is_found(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Keys that another client has placed, a time ahead, a short-lived dead letter topic with too few partitions."""
    source, dead = kafka.topic("order-events"), kafka.topic("order-events.dead-letter")
    asyncio.run(create_topics(kafka, {source: PARTITIONS}, 30, {"retention.ms": str(30 * DAY_MS)}))
    asyncio.run(create_topics(kafka, {dead: 1}, 30, {"retention.ms": str(DAY_MS)}))
    asyncio.run(_write(kafka, source))
    assert faust("topics", "apply", **settings_of(kafka, tmp_path))[0] == 0
    code, findings = found(kafka, tmp_path)
    assert findings == {
        ("warning", "dead-letter-partitions", "order-events.dead-letter"),
        ("warning", "dead-letter-retention", "order-events.dead-letter"),
        ("warning", "dead-letter-size", "order-events.dead-letter"),
        ("warning", "dedupe-window", "order-events"),
        ("warning", "partitioner", "order-events"),
        ("warning", "clock", "order-events"),
    }
    assert code == 0
    assert found(kafka, tmp_path, "--strict") == (1, findings)
    code, output = faust("doctor", **settings_of(kafka, tmp_path))
    assert "cure: set Kafka.ProducerConfig.Partitioner to consistent_random" in output


def test_no_broker_is_one_line(tmp_path: Path) -> None:
    """And its exit code says what kind of trouble it is."""
    code, output = faust(
        "doctor",
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        WORKER__STARTUPTIMEOUTS="1",
        WORKER__DATADIR=str(tmp_path),
    )
    assert code == 69
    assert "no Kafka broker answers at 127.0.0.1:1" in one_line(output)


async def _write(kafka: KafkaConfig, topic: str) -> None:
    """As a .NET client does, whose clock is an hour ahead."""
    ahead_ms = (time.time_ns() // 1_000_000) + 3_600_000
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers) as producer:
        for number in range(200):
            key = b"customer-%d" % number
            await producer.send(topic, b"{}", key, consistent_random(key, PARTITIONS), ahead_ms)
        await producer.flush()
