"""The worker on a real Kafka: every event counts once, poison is set aside unchanged, state survives."""

import asyncio
import shutil
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from famulus.config import KafkaConfig
from famulus.deadletter.record import origin_of
from famulus.dev.broker import Broker
from famulus.dev.worker import WorkerProcess
from famulus.producer.producer import Producer
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ProducerRecord
from models.orders import OrderCreated, OrderItem
from tests.integration.conftest import PARTITIONS
from tests.support.on_kafka.house import SLEEPING, House

Start = Callable[..., WorkerProcess]
CUSTOMERS = [UUID(int=number) for number in range(20)]


def order(number: int) -> OrderCreated:
    """An order whose sums are easy to tell: 1.01 and 2 pieces of one of seven products."""
    return OrderCreated(
        order_id=uuid4(),
        customer_id=CUSTOMERS[number % len(CUSTOMERS)],
        total_amount=Decimal("1.01"),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        items=[OrderItem(product_id=f"part-{number % 7}", quantity=2, price=Decimal("0.50"))],
    )


def send(kafka: KafkaConfig, records: list[ProducerRecord]) -> None:
    """Send records and wait until the broker has them."""

    async def run() -> None:
        async with Producer(kafka) as producer:
            await producer.send_all(records)

    asyncio.run(run())


def records_of(kafka: KafkaConfig, count: int) -> list[ProducerRecord]:
    """*count* orders as records, each with an id of its own."""
    producer = Producer(kafka)
    orders = [order(number) for number in range(count)]
    return [
        ProducerRecord(
            kafka.topic("order-events"),
            str(event.customer_id).encode(),
            codec_of(OrderCreated).encode(event),
            producer.new_headers(event),
        )
        for event in orders
    ]


def read_all(kafka: KafkaConfig, topic: str) -> list[ConsumerRecord]:
    """Every record of a topic."""

    async def run() -> list[ConsumerRecord]:
        async with AIOKafkaConsumer(
            bootstrap_servers=kafka.bootstrap_servers, enable_auto_commit=False
        ) as consumer:
            partitions = [
                TopicPartition(kafka.topic(topic), number) for number in range(kafka.partitions)
            ]
            consumer.assign(partitions)
            await consumer.seek_to_beginning()
            ends = await consumer.end_offsets(partitions)
            found: list[ConsumerRecord] = []
            while any([await consumer.position(tp) < ends[tp] for tp in partitions]):
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    found += records
            return found

    return asyncio.run(run())


def spent(*workers: WorkerProcess) -> Decimal:
    """What all customers have spent, by the tables of *workers*."""
    return sum(
        (Decimal(amount) for worker in workers for amount in worker.rows("spend").values()),
        Decimal(0),
    )


def reserved(*workers: WorkerProcess) -> int:
    """The pieces reserved of all products."""
    return sum(pieces for worker in workers for pieces in worker.rows("stock_reserved").values())


def counts(worker: WorkerProcess, topic: str) -> dict[str, int]:
    """What a worker counted of one topic."""
    found: dict[str, int] = next(
        s for s in worker.get("/subscriptions/") if s["topic"].endswith(topic)
    )
    return found


def test_every_order_counts_once(
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
) -> None:
    """Orders become sums per customer and, through a second agent, per product; what came twice counts once."""
    make_topics("order-events", "stock-events")
    worker = start_worker()
    orders = records_of(kafka, 300)
    send(kafka, orders + orders[:10])  # close behind their originals
    send(kafka, orders[200:230])  # long after them
    wait_settled("order-events", "stock-events", expected=300 + 40 + 300)
    assert spent(worker) == Decimal("303.00")
    assert reserved(worker) == 600
    assert len(worker.rows("spend")) == len(CUSTOMERS)
    assert counts(worker, "order-events")["duplicate"] == 40
    assert (
        counts(worker, "order-events")["handled"]
        == counts(worker, "stock-events")["handled"]
        == 300
    )


def test_poison_goes_to_the_dead_letter_topic_unchanged(
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
) -> None:
    """Bytes, nulls, keys and headers arrive there as they were; their healthy neighbours are handled."""
    make_topics("order-events", "stock-events")
    worker = start_worker()
    topic = kafka.topic("order-events")
    value = codec_of(OrderCreated).encode(order(1))
    # Decodes well, but the handler refuses it for good.
    nothing = value.replace(b'"quantity":2', b'"quantity":0')
    poison = [
        ProducerRecord(topic, b"a", b"\xff\xfe", [("trace", b"1")], 0),
        ProducerRecord(topic, None, b'{"order_id": "x"}', (), 1),
        ProducerRecord(topic, b"\x00\xff", None, (), 2),
        ProducerRecord(topic, b"c", b"", (), 3),
        ProducerRecord(topic, b"d", nothing, (), 0),
        ProducerRecord(topic, None, None, (), 1),
    ]
    good = records_of(kafka, 50)
    send(kafka, good[:25] + poison + good[25:])
    wait_settled("order-events", "stock-events", expected=56 + 50)
    assert spent(worker) == Decimal("50.50")
    dead = read_all(kafka, "order-events.dead-letter")
    assert {(d.partition, d.key, d.value) for d in dead} == {
        (p.partition, p.key, p.value) for p in poison
    }
    assert len(dead) == len(poison)
    for letter in dead:
        origin_topic, partition, _ = origin_of(letter.headers)
        assert (origin_topic, partition) == (topic, letter.partition)
    assert ("trace", b"1") in next(d.headers for d in dead if d.key == b"a")
    assert counts(worker, "order-events")["dead_lettered"] == len(poison)


def test_state_survives_a_restart_and_the_loss_of_its_folder(
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
    tmp_path: Path,
) -> None:
    """A worker stops with exit code 0 and handles nothing twice, also when the changelogs must give its state back."""
    make_topics("order-events", "stock-events")
    orders = records_of(kafka, 100)
    worker = start_worker()
    send(kafka, orders)
    wait_settled("order-events", "stock-events", expected=200)
    assert worker.stop() == 0

    worker = start_worker()
    assert (spent(worker), reserved(worker)) == (Decimal("101.00"), 200)
    assert worker.stop() == 0

    shutil.rmtree(tmp_path / "one")
    worker = start_worker()
    assert (spent(worker), reserved(worker)) == (Decimal("101.00"), 200)
    send(kafka, orders[:20])
    wait_settled("order-events", "stock-events", expected=220)
    assert spent(worker) == Decimal("101.00")
    assert counts(worker, "order-events")["duplicate"] == 20


def test_two_workers_share_the_partitions(
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
) -> None:
    """A second worker takes over half of the partitions with their state, and gives them back when it is killed."""
    make_topics("order-events", "stock-events")
    orders = records_of(kafka, 200)
    first = start_worker("first")
    send(kafka, orders[:100])
    wait_settled("order-events", "stock-events", expected=200)
    second = start_worker("second", ready=4)
    first.wait_ready(partitions=4)
    send(kafka, orders[100:])
    wait_settled("order-events", "stock-events", expected=400)
    assert set(first.rows("spend")).isdisjoint(second.rows("spend"))
    assert (spent(first, second), reserved(first, second)) == (Decimal("202.00"), 400)

    second.signal(signal.SIGKILL)
    send(kafka, records_of(kafka, 10))
    wait_settled("order-events", "stock-events", expected=420)
    assert (spent(first), reserved(first)) == (Decimal("212.10"), 420)


def test_tables_answer_over_http(
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
) -> None:
    """Tables, pages and single keys; what is not there says so in one line."""
    make_topics("order-events", "stock-events")
    worker = start_worker()
    send(kafka, records_of(kafka, 40))
    wait_settled("order-events", "stock-events", expected=80)
    assert {"spend", "stock_reserved"} <= {table["table"] for table in worker.get("/tables/")}
    page = worker.get("/tables/stock_reserved/?limit=3")
    assert [key for key, _ in page["rows"]] == ["part-0", "part-1", "part-2"]
    assert page["next"] == "part-2"
    assert worker.get("/tables/stock_reserved/?limit=3&after=part-5") == {
        **page,
        "rows": [["part-6", 10]],
        "next": None,
    }
    assert worker.get(f"/tables/spend/{CUSTOMERS[0]}/") == {
        "key": str(CUSTOMERS[0]),
        "value": "2.02",
    }
    for path, status, says in [
        ("/tables/nothing/", 404, "no table 'nothing'"),
        ("/tables/stock_reserved/part-99/", 404, "no row 'part-99'"),
        ("/tables/spend/not-a-uuid/", 400, "no key of table spend"),
        ("/tables/spend/?limit=0", 400, "limit is a number from 1"),
    ]:
        assert worker.answer(path)[0] == status
        assert says in worker.answer(path)[1]["error"]


SLOW = """
import asyncio
from pathlib import Path
from app import Deliveries, Delivery, PermanentError, Retry, TransientError, app, handles
from models.slow import SlowHappened

slow = app.subscription("slow-events")
attempts = slow.Table("attempts", key=str, value=int, default=int)


@app.agent(slow)
async def slow_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()


@handles(SlowHappened, retry=Retry(wait_initial_s=0.1))
async def work(event: SlowHappened, delivery: Delivery) -> None:
    attempts[event.name] += 1
    if event.name == "sleeper" and not Path("awake").exists():
        await asyncio.sleep(3600)
    if event.name == "second" and delivery.attempt < 2:
        raise TransientError("not yet")
    if event.name in ("never", "hopeless"):
        raise (TransientError if event.name == "never" else PermanentError)("no")
"""
SLOW_MODEL = """
from famulus import Event
class SlowHappened(Event, namespace="slow.SlowHappened", topic="slow-events", key="name"):
    name: str
"""


@pytest.fixture
def slow_checkout(checkout: Path) -> Path:
    """A checkout with a handler that sleeps, fails once, or fails for ever, by the event's name."""
    (checkout / "agents" / "slow.py").write_text(SLOW)
    (checkout / "models" / "slow.py").write_text(SLOW_MODEL)
    return checkout


def slow_events(kafka: KafkaConfig, *names: str) -> None:
    """Send events of the slow topic, all to one partition."""
    send(
        kafka,
        [
            ProducerRecord(
                kafka.topic("slow-events"), b"k", b'{"name":"%s"}' % name.encode(), (), 0
            )
            for name in names
        ],
    )


def test_a_failing_handler_is_tried_again_then_dead_lettered(
    slow_checkout: Path,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
) -> None:
    """What an attempt wrote before it failed is forgotten; events behind it go on after it."""
    make_topics("order-events", "stock-events", "slow-events")
    worker = start_worker(cwd=slow_checkout, ready=12)
    slow_events(kafka, "first", "second", "never", "hopeless", "last")
    wait_settled("slow-events", expected=5)
    assert worker.rows("attempts") == {"first": 1, "second": 1, "last": 1}
    found = counts(worker, "slow-events")
    assert (found["handled"], found["dead_lettered"], found["retried"]) == (3, 2, 1 + 2)
    reasons = {
        d.value: dict(d.headers)["__streams.errors.exception"]
        for d in read_all(kafka, "slow-events.dead-letter")
    }
    assert reasons == {
        b'{"name":"never"}': b"famulus.errors.TransientError",
        b'{"name":"hopeless"}': b"famulus.errors.PermanentError",
    }


def test_a_stop_that_cannot_wait_is_75_and_loses_nothing(
    slow_checkout: Path,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Start,
    wait_settled: Callable[..., None],
) -> None:
    """Work in hand that does not end within the drain timeout is left, and read again by the next worker."""
    make_topics("order-events", "stock-events", "slow-events")
    worker = start_worker(cwd=slow_checkout, ready=12, WORKER__DRAINTIMEOUTS="1")
    slow_events(kafka, "sleeper", "after")
    time.sleep(1.5)
    assert worker.stop() == 75
    (slow_checkout / "awake").touch()
    worker = start_worker(cwd=slow_checkout, ready=12)
    wait_settled("slow-events", expected=2)
    assert worker.rows("attempts") == {"sleeper": 1, "after": 1}
    worker.signal(signal.SIGHUP)  # the end of a terminal is a stop like any other
    assert worker.wait_exit(30) == 0


def test_a_broker_that_goes_silent_ends_the_worker_with_70_and_loses_nothing(
    house_on: Callable[[Broker], House],
) -> None:
    """What cannot be settled within the delivery timeout is unknown: the next worker reads it again."""
    with Broker() as broker:
        house = house_on(broker)
        house.build(SLEEPING, partitions=PARTITIONS)
        worker = house.start(KAFKA__PRODUCERCONFIG__DELIVERYTIMEOUTMS="2000")
        notes = ["now"] * 15_000 + ["wait"] * 5_000
        house.send(
            *(house.thing(f"k{number % 100}", number, note) for number, note in enumerate(notes))
        )
        house.wait_settled(15_000, worker)
        broker.nodes[0].pause()
        (house.checkout / "go").touch()
        code = worker.wait_exit(60)
        broker.nodes[0].resume()
        assert code == 70, worker.log.read_text()[-2000:]
        assert "could not be settled" in worker.log.read_text().splitlines()[-1]
        worker = house.start()
        house.wait_settled(20_000, worker)
        assert worker.rows("count") == {f"k{number}": 200 for number in range(100)}
