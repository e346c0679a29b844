"""What the workload `crowd` measures: many calls at once that each publish an event and wait for it; and its check."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import click
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.crowded import KEYS, REPEATS
from bench.system import HERE, ROOT, Result
from famulus.config import KafkaConfig
from famulus.kafka.admin import create_topics

LIMIT_S = 900


def crowded(kafka: KafkaConfig, name: str) -> Result:
    """Have a process of its own publish to a new topic.

    Raises click.ClickException when a key is out of order.
    """
    topic = f"crowd-{uuid4().hex[:8]}"
    asyncio.run(create_topics(kafka, {topic: kafka.partitions}, 10))
    python = os.environ["BENCH_PYTHON"] if name == "faststream" else sys.executable
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "BENCH_TOPIC": topic,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(  # our own scripts
        [str(Path(python).absolute()), str(HERE / f"systems/{name}_crowd.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    said = next((line for line in done.stdout.splitlines() if line.startswith("BENCH {")), None)
    if said is None:
        raise click.ClickException(
            f"{name}, crowd: no result; its log ends\n{(done.stdout + done.stderr)[-2000:]}"
        )
    result: Result = json.loads(said.removeprefix("BENCH "))
    result["out_of_order"] = asyncio.run(_out_of_order(kafka, topic))
    if name == "famulus" and (
        result["out_of_order"] or any(result[f"failed_at_{count}"] for count in REPEATS)
    ):
        raise click.ClickException(
            f"{name}, crowd: not every call is there, in the order of its key: {result}"
        )
    return result


async def _out_of_order(kafka: KafkaConfig, topic: str) -> int:
    """How many records of a topic have a smaller number than one before them of the same key."""
    last = dict.fromkeys((f"customer-{number}" for number in range(KEYS)), -1)
    found = 0
    async with AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, enable_auto_commit=False
    ) as consumer:
        places = [TopicPartition(topic, partition) for partition in range(kafka.partitions)]
        ends = await consumer.end_offsets(places)
        for place in places:
            consumer.assign([place])
            consumer.seek(place, 0)
            while await consumer.position(place) < ends[place]:
                for record in (await consumer.getmany(place, timeout_ms=1_000)).get(place, ()):
                    event = orjson.loads(record.value)
                    found += event["number"] < last[event["customer_id"]]
                    last[event["customer_id"]] = max(last[event["customer_id"]], event["number"])
    return found
