"""Telemetry, lag and distribution beside what others say: librdkafka, OpenTelemetry, Prometheus, Kafka's tools."""

import asyncio
import json
import re
from collections import Counter
from typing import Any

import confluent_kafka
import pytest

from app import LagMonitor
from famulus.config import KafkaConfig
from famulus.errors import ConfigError, UnavailableError
from famulus.observability import metric_definitions as c
from tests.integration.test_metrics import families, series, value
from tests.support.on_kafka.house import LIMIT_S, House, wait_for
from tests.support.on_kafka.kafka_tools import described
from tests.support.places import ROOT

PARTITIONS = 4
SPREAD = (40, 10, 5, 0)  # records by partition
SLOW_S, SLOWS = 0.2, 10
HANDLERS = f"""
import time

from app import Consumed, PermanentError

consumed = open("consumed.jsonl", "a", buffering=1)


@handles(Thing)
async def note(thing: Thing) -> None:
    if thing.note == "bad":
        raise PermanentError("no")
    if thing.note == "slow":
        await asyncio.sleep({SLOW_S})
    count[thing.key] += 1


@handles(Other)
async def note_other(other: Other) -> None:
    time.sleep(0.01)


@app.on_consumed
def tell(of: Consumed) -> None:
    line = json.dumps([of.topic, of.partition, of.offset, of.event_type, of.outcome, of.processing_s])
    consumed.write(line + "\\n")


@app.on_consumed
def fail(of: Consumed) -> None:
    raise ValueError("secret")
"""
MODELS = """
import json

from famulus import Event


class Thing(Event, namespace="things.Thing", topic="things", key="key"):
    key: str
    number: int = 0
    note: str = ""


class Other(Event, namespace="things.Other", topic="things", key="key"):
    key: str
"""
PROVIDER = """
import json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

spans = open("spans.jsonl", "a", buffering=1)
provider = TracerProvider()
exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: json.dumps(json.loads(span.to_json())) + "\\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
"""


EXPORTER = """
import json

from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter


class Exporter(ConsoleLogRecordExporter):
    def __init__(self) -> None:
        out = open("events.jsonl", "a", buffering=1)
        super().__init__(out, lambda of: json.dumps(json.loads(of.to_json())) + "\\n")
"""


def produced(house: House, *records: tuple[int, str, str, str]) -> None:
    """Send records (partition, key, type, note) by librdkafka, and wait until the broker has them."""
    producer = confluent_kafka.Producer({"bootstrap.servers": house.kafka.bootstrap_servers})
    for partition, key, kind, note in records:
        text = json.dumps({"key": key, "note": note} if kind == "Thing" else {"key": key})
        producer.produce(
            house.topic, text, key, partition, headers=[("ce_type", f"things.{kind}".encode())]
        )
    assert producer.flush(LIMIT_S) == 0


def ends(house: House) -> dict[int, int]:
    """The end of each partition, as librdkafka says it."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": house.kafka.bootstrap_servers, "group.id": "looks"}
    )
    try:
        return {
            number: consumer.get_watermark_offsets(
                confluent_kafka.TopicPartition(house.topic, number), LIMIT_S
            )[1]
            for number in range(PARTITIONS)
        }
    finally:
        consumer.close()


def lines(house: House, name: str) -> list[Any]:
    """What a file of the fork says."""
    return [json.loads(line) for line in (house.checkout / name).read_text("utf-8").splitlines()]


def test_each_message_is_a_span_a_line_and_a_call(house: House) -> None:
    """All three say the same of it, its type and its time among it, and a callback that raises changes nothing."""
    house.build(HANDLERS, models=MODELS, partitions=PARTITIONS)
    (house.checkout / "agents/a_provider.py").write_text(PROVIDER)
    worker = house.start(WORKER__LOGCONSUMED="true")
    sent = [(0, f"k{n}", "Thing", "") for n in range(30)] + [
        (1, "o", "Other", ""),
        (1, "s", "Thing", "slow"),
    ]
    produced(house, *sent, (2, "b", "Thing", "bad"), (2, "x", "Stranger", ""))
    house.wait_settled(len(sent) + 2, worker)
    called = {
        (topic, p, offset): rest for topic, p, offset, *rest in lines(house, "consumed.jsonl")
    }
    assert len(called) == len(lines(house, "consumed.jsonl")) == len(sent) + 2
    assert Counter((kind, outcome) for kind, outcome, _ in called.values()) == {
        ("things.Thing", "handled"): 31,
        ("things.Other", "handled"): 1,
        ("things.Thing", "dead_lettered"): 1,
        ("things.Stranger", "ignored"): 1,
    }
    assert SLOW_S <= called[house.topic, 1, 1][2] < LIMIT_S
    spans = {}
    for span in lines(house, "spans.jsonl"):
        of = span["attributes"]
        if span["kind"] == "SpanKind.CONSUMER":
            place = of["messaging.destination.name"], int(of["messaging.destination.partition.id"])
            spans[*place, of["messaging.kafka.offset"]] = [
                of["cloudevents.event_type"],
                of["famulus.outcome"],
            ]
    assert spans == {place: of[:2] for place, of in called.items()}
    logged = {}
    for line in worker.log.read_text("utf-8", "replace").splitlines():
        if "KafkaMessageConsumed" in line:
            of = dict(
                pair.split("=", 1) for pair in line.partition("KafkaMessageConsumed ")[2].split()
            )
            logged[of["topic"], int(of["partition"]), int(of["offset"])] = [
                of["type"],
                of["outcome"],
            ]
            assert float(of["processing_ms"]) >= 0
    assert logged == spans
    found = series(families(worker))
    assert value(found, c.ON_CONSUMED, callback="agents.things.fail") == len(called)
    assert value(found, c.ON_CONSUMED, callback="agents.things.tell") == 0
    text = worker.log.read_text("utf-8", "replace")
    assert text.count("a callback of app.on_consumed failed") == 1
    assert "secret" not in text
    assert house.outcomes(worker)["dead_lettered"] == 1
    assert worker.stop() == 0


def test_the_example_of_the_readme_makes_events(house: House) -> None:
    """As OpenTelemetry's SDK exports them, with another exporter in the place of Azure's."""
    [example] = re.findall(
        r"```python\n(# agents/telemetry\.py\n.*?)```",
        (ROOT / "README.md").read_text("utf-8"),
        re.DOTALL,
    )
    example, count = re.subn(
        r"from azure.* as Exporter", "from agents.exporting import Exporter", example
    )
    assert count == 1
    house.build(partitions=PARTITIONS)
    (house.checkout / "agents/exporting.py").write_text(EXPORTER)
    (house.checkout / "agents/telemetry.py").write_text(example)
    worker = house.start()
    produced(house, (1, "a", "Thing", ""), (2, "b", "Thing", ""))
    house.wait_settled(2, worker)
    assert worker.stop() == 0
    events = [of["attributes"] for of in lines(house, "events.jsonl")]
    for of in events:
        assert of.pop("ProcessingTime") > 0
    assert sorted(events, key=lambda of: of["Partition"]) == [
        {
            "microsoft.custom_event.name": "KafkaMessageConsumed",
            "Topic": house.topic,
            "Partition": partition,
            "Offset": 0,
            "MessageType": "things.Thing",
            "Outcome": "handled",
        }
        for partition in (1, 2)
    ]


def test_time_is_measured_where_it_hurts(house: House) -> None:
    """A slow key behind quick ones: sums by topic and by type are what its handlers took; hot keys have it, too."""
    house.build(HANDLERS, models=MODELS, partitions=PARTITIONS)
    worker = house.start(WORKER__SHOWKEYS="true")
    quick = [(0, f"k{n % 20}", "Thing", "") for n in range(400)]
    blocked = [(1, "blocks", "Other", "") for _ in range(50)]
    mixed = [*quick]
    for number in range(SLOWS):
        mixed.insert(37 * (number + 1), (0, "slow", "Thing", "slow"))
    produced(house, *mixed, *blocked)
    house.wait_settled(len(mixed) + len(blocked), worker)
    found = series(families(worker))
    noted = lines(house, "consumed.jsonl")
    took = Counter[str]()
    for _, _, _, kind, _, seconds in noted:
        took[kind] += seconds
    wanted = SLOWS * SLOW_S
    assert took["things.Thing"] >= wanted
    assert value(found, c.PROCESSING, "_sum") == pytest.approx(took.total(), rel=0.05)
    assert value(found, c.PROCESSING, "_count") == len(mixed) + len(blocked)
    assert value(found, c.TYPE_PROCESSING, "_sum", type="things.Thing") == pytest.approx(
        took["things.Thing"], rel=0.05
    )
    above = value(found, c.PROCESSING, "_count") - value(found, c.PROCESSING, "_bucket", le="0.1")
    assert above == SLOWS
    [first] = [of for of in worker.get("/hotkeys/")["topics"] if of["partition"] == 0]
    [slow] = [key for key in first["keys"] if key["key"] == "slow"]
    assert wanted <= slow["handler_s"] <= 1.05 * took["things.Thing"]
    assert worker.stop() == 0


def test_records_and_bytes_by_partition_are_those_of_the_log(house: House) -> None:
    """A partition that has none is among them, so what is uneven can be seen."""
    house.build(HANDLERS, models=MODELS, partitions=PARTITIONS)
    worker = house.start()
    produced(
        house,
        *((p, f"k{p}", "Thing", "x" * p) for p, count in enumerate(SPREAD) for _ in range(count)),
    )
    house.wait_settled(sum(SPREAD), worker)
    found, there = series(families(worker)), ends(house)
    assert tuple(there.values()) == SPREAD
    for partition, end in there.items():
        at = {"topic": house.topic, "partition": str(partition)}
        assert value(found, c.IN_RECORDS, **at) == end
        each = len(f"k{partition}") + len(
            json.dumps({"key": f"k{partition}", "note": "x" * partition})
        )
        assert value(found, c.IN_BYTES, **at) == end * each
    assert worker.stop() == 0


def test_the_lag_monitor_says_what_kafkas_tools_say(house: House) -> None:
    """Of a group that librdkafka has committed for, on one partition of four, and of one that never has."""
    house.build(HANDLERS, models=MODELS, partitions=PARTITIONS)
    produced(
        house, *((p, f"k{p}", "Thing", "") for p, count in enumerate(SPREAD) for _ in range(count))
    )
    servers, group = house.kafka.bootstrap_servers, f"{house.group}-theirs"
    client = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": group})
    try:
        client.commit(
            offsets=[
                confluent_kafka.TopicPartition(house.topic, n, end)
                for n, end in ((0, 7), (1, 10), (2, 0), (3, 0))
            ],
            asynchronous=False,
        )
    finally:
        client.close()
    monitor = LagMonitor(house.kafka)
    theirs = {
        partition: lag
        for (_, topic, partition), (_, _, lag) in described(servers, group).items()
        if topic == house.topic
    }
    ours = asyncio.run(monitor.partitions(group, "things"))
    assert ours == theirs == {0: 33, 1: 0, 2: 5, 3: 0}
    assert asyncio.run(monitor.lag(group, "things")) == 38
    assert asyncio.run(monitor.lag(f"{group}-never", "things")) == sum(SPREAD)
    with pytest.raises(ConfigError, match="there is no topic"):
        asyncio.run(monitor.lag(group, "nothing"))
    nowhere = KafkaConfig(bootstrap_servers="127.0.0.1:1")
    with pytest.raises(UnavailableError):
        asyncio.run(LagMonitor(nowhere, timeout_s=1.0).lag(group, "things"))
    worker = house.start()
    house.wait_settled(sum(SPREAD), worker)
    wait_for(lambda: asyncio.run(monitor.lag(house.group, "things")) == 0)
    assert worker.stop() == 0
