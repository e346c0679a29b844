"""Faust's own features leave by the road of the event bus: one connection, one order, seen by another client."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from famulus.errors import ConfigError
from famulus.kafka.admin import create_topics, partitions_of
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust

LIMIT_S = 60.0
PLAIN = '''
"""Everything that Faust can send with, asked for over pages."""
import asyncio
from uuid import UUID

from app import app
from models.stock import StockReserved

def named(name):
    return app.settings.kafka.topic(name)

mixed = app.topic(named("mixed"), key_type=str, value_type=int)
numbers = app.topic(named("numbers"), key_type=str, value_type=int, partitions=3)
doubled = app.topic(named("doubled"), key_type=str, value_type=int)


@app.agent(numbers)
async def double(stream):
    async for key, number in stream.items():
        if number < 0:
            await asyncio.sleep(10_000)
        await doubled.send(key=key, value=2 * number)
        yield 2 * number


@app.page("/send/")
async def send(view, request):
    calls = []
    for number in range(500):
        calls.append(await mixed.send(key="k", value=number))
    await asyncio.gather(*calls)
    return view.json({"sent": app.sender.sent[mixed.get_topic_name()]})


asked = []


@app.page("/ask/")
async def ask(view, request):
    if not asked:
        asked.append(asyncio.create_task(all_kinds()))  # its first reply takes Faust some seconds
    return view.json(asked[0].result() if asked[0].done() else {})


async def all_kinds():
    first = await double.ask(21, key="a")
    await double.send(value=4, key="a")
    event = StockReserved(order_id=UUID(int=1), product_id="a", quantity=3)
    await app.bus.publish(event)
    kafkas = {id(app.producer._ensure_producer()), id(app.sender.connected().kafka)}
    return {"answer": first, "connections": len(kafkas)}
'''


def read(kafka: KafkaConfig, topic: str, count: int) -> list[tuple[bytes | None, bytes | None]]:
    """The first *count* records of a topic, by partition, as another client reads them."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "a look",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    there = asyncio.run(partitions_of(kafka, [kafka.topic(topic)], LIMIT_S))[kafka.topic(topic)]
    consumer.assign([TopicPartition(kafka.topic(topic), number, 0) for number in range(there)])
    found: list[tuple[bytes | None, bytes | None]] = []
    deadline = time.monotonic() + LIMIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        if (message := consumer.poll(1)) is not None and message.error() is None:
            found.append((message.key(), message.value()))
    consumer.close()
    return found


def test_all_that_faust_sends_goes_by_one_road(
    checkout: Path,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """`topic.send` in its order, an agent fed by another client, `ask` and its reply, the bus; one connection."""
    (checkout / "agents" / "plain.py").write_text(PLAIN)
    make_topics("order-events", "stock-events")
    names = {kafka.topic(name): 4 for name in ("mixed", "numbers", "doubled")}
    asyncio.run(create_topics(kafka, names, LIMIT_S))
    worker = start_worker(cwd=checkout)
    assert worker.get("/send/") == {"sent": 500}
    assert [value for _, value in read(kafka, "mixed", 500)] == [
        b"%d" % number for number in range(500)
    ]
    stranger = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    stranger.produce(kafka.topic("numbers"), b"7", b'"b"')
    stranger.flush(10)
    deadline = time.monotonic() + LIMIT_S
    while not (answered := worker.get("/ask/")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert answered == {"answer": 42, "connections": 1}
    assert sorted(value or b"" for _, value in read(kafka, "doubled", 3)) == [b"14", b"42", b"8"]
    [(key, value)] = read(kafka, "stock-events", 1)
    assert key == b"a"
    assert json.loads(value or b"")["quantity"] == 3
    assert worker.stop() == 0


def test_plain_agents_topics_are_made_by_apply_and_missed_in_words(
    checkout: Path,
    kafka: KafkaConfig,
    tmp_path: Path,
    make_topics: Callable[..., None],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """As those of subscriptions, with the partitions that the agent's topic says."""
    (checkout / "agents" / "plain.py").write_text(PLAIN)
    make_topics("order-events", "stock-events")
    numbers = kafka.topic("numbers")
    worker = start_worker(cwd=checkout, ready=0)
    assert worker.wait_exit(LIMIT_S) == ConfigError.exit_code
    says = f"missing topics: {numbers}; create them with `faust -A app topics apply`"
    assert says in worker.log.read_text().strip().splitlines()[-1]
    code, said = faust("topics", "apply", cwd=checkout, **settings_of(kafka, tmp_path / "data"))
    assert code == 0
    assert f"{numbers}: created, with 3 partitions" in said
    assert asyncio.run(partitions_of(kafka, [numbers], LIMIT_S)) == {numbers: 3}


def test_a_plain_agent_that_hangs_does_not_keep_the_worker(
    checkout: Path,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """It ends after `Worker.StopTimeoutS`; its record is read again."""
    (checkout / "agents" / "plain.py").write_text(PLAIN)
    make_topics("order-events", "stock-events")
    asyncio.run(
        create_topics(kafka, {kafka.topic(name): 4 for name in ("numbers", "doubled")}, LIMIT_S)
    )
    worker = start_worker(cwd=checkout, WORKER__STOPTIMEOUTS="6", WORKER__DRAINTIMEOUTS="3")
    stranger = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    stranger.produce(kafka.topic("numbers"), b"-1", b'"b"')
    stranger.flush(10)
    time.sleep(3)
    began_s = time.monotonic()
    worker.stop()
    assert time.monotonic() - began_s < 20
