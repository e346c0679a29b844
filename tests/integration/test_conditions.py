"""What becomes of a worker whose surroundings change while it runs: topics, partitions, the clock; on a real Kafka."""

import time

from aiokafka.admin import NewPartitions

from famulus.dev.worker import WorkerProcess
from famulus.serialization.records import ProducerRecord
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

OFTEN = "1"  # seconds between two looks
START_S, LOOK_S = 180.0, 90.0  # on a busy machine
MARKED_MODEL = """
from famulus import Event


class Mark(Event, namespace="marks.Mark", topic="marks", key="key"):
    key: str
"""
MARKED = """
from pathlib import Path

from app import Deliveries, app, handles
from models.marks import Mark

marks = app.subscription("marks")


@app.agent(marks)
async def mark_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()


@handles(Mark, retry_topics=["1s"])
async def note(mark: Mark) -> None:
    if mark.key == "later" and not Path("go").exists():
        raise ValueError("not yet")
"""
CLOCK = """
import time

real, real_ns = time.time, time.time_ns
time.time = lambda: real() + {seconds}
time.time_ns = lambda: real_ns() + {seconds} * 10**9
"""


def build_two(house: House) -> str:
    """A second topic, `marks`, without tables: what it is called on the cluster."""
    (house.checkout / "models/marks.py").write_text(MARKED_MODEL)
    (house.checkout / "agents/marks.py").write_text(MARKED)
    marks = house.kafka.topic("marks")
    house.make_topics(marks, f"{marks}.dead-letter", partitions=2)
    return marks


def start(house: House, ready: int | None = None) -> WorkerProcess:
    """Start a worker that looks often, and wait until it has *ready* partitions, all of `things` unless said."""
    worker = house.start(ready=0, WORKER__WATCHINTERVALS=OFTEN)
    if ready != 0:
        worker.wait_ready(START_S, partitions=ready or house.partitions)
    return worker


def mark(topic: str, key: str, partition: int) -> ProducerRecord:
    """An event of the second topic."""
    headers = [
        ("ce_id", f"{key}-{partition}".encode()),
        ("ce_source", b"test"),
        ("ce_type", b"marks.Mark"),
    ]
    return ProducerRecord(topic, key.encode(), b'{"key":"%s"}' % key.encode(), headers, partition)


def settled(worker: WorkerProcess, topic: str) -> dict[str, int]:
    """How far each partition of a topic is."""
    [found] = [s["next_offsets"] for s in worker.get("/subscriptions/") if s["topic"] == topic]
    return {number: offset for number, offset in found.items() if offset}


def partitions_of(house: House, topic: str) -> int:
    """How many a topic has."""
    return len(house.admin(lambda admin: admin.describe_topics([topic]))[0]["partitions"])


def add_partitions(house: House, topic: str, partitions: int) -> None:
    """Have a topic have so many."""
    house.admin(lambda admin: admin.create_partitions({topic: NewPartitions(partitions)}))


def refused(worker: WorkerProcess, code: int, *words: str) -> str:
    """Wait for the end of *worker* with *code*; its last line, which has *words*."""
    wait_for(lambda: worker.exit_code() is not None, START_S, lambda: "the worker goes on")
    log = worker.log.read_text("utf-8", "replace")
    # Earlier workers had the same log.
    line = [line for line in log.splitlines() if line.startswith("Error: ")][-1]
    assert worker.exit_code() == code, line
    assert all(word in line for word in words), line
    assert "a bug of ours" not in log
    return line


def test_partitions_are_taken_on_and_a_deleted_topic_holds_up_no_other(house: House) -> None:
    """One worker, which is never started anew, and which ends in time and with 0 when it is to."""
    house.build()
    marks = build_two(house)
    worker = start(house, 3)
    house.send(
        *(mark(marks, "a", number) for number in range(2)),
        mark(marks, "later", 1),
        house.thing("a", 1),
    )
    wait_for(lambda: settled(worker, marks) == {"0": 1, "1": 2}, LOOK_S)
    add_partitions(house, marks, 4)
    house.send(mark(marks, "b", 2), mark(marks, "b", 3), mark(marks, "later", 3))
    wait_for(lambda: settled(worker, marks) == {"0": 1, "1": 2, "2": 1, "3": 2}, LOOK_S)
    of_group = (
        f"{house.group}-marks-state",
        f"{marks}.{house.group}.redrive",
        f"{marks}.{house.group}.retry-1",
    )
    assert [partitions_of(house, topic) for topic in of_group] == [4, 4, 4]
    (house.checkout / "go").touch()
    wait_for(
        lambda: all(partition["lag"] == 0 for partition in worker.get("/lag/")["partitions"]),
        LOOK_S,
    )
    wait_for(lambda: worker.answer("/readyz")[0] == 200)

    house.delete_topic(marks)
    house.send(house.thing("b", 2))
    wait_for(lambda: f"topic {marks} was deleted" in worker.answer("/readyz")[1]["why"], LOOK_S)
    house.send(house.thing("c", 3))
    wait_for(lambda: worker.rows("count") == {"a": 1, "b": 1, "c": 1}, LOOK_S)
    wait_for(lambda: house.committed() == {0: 3})
    assert len(worker.log.read_text("utf-8", "replace").splitlines()) < 1_000
    asked_s = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - asked_s < LIMIT_S, "as StopTimeoutS is"


def test_a_state_that_is_gone_or_has_moved_ends_the_worker_with_the_cure(house: House) -> None:
    """Soon, while it runs; and the store, which is the only copy of its rows by then, is kept."""
    house.build()
    worker = start(house)
    house.send(*(house.thing("a", number) for number in range(5)))
    house.wait_settled(5, worker)
    add_partitions(house, house.topic, 2)
    refused(worker, 78, f"topic {house.topic} has 2 partitions", "state export")
    refused(start(house, 0), 78, "the number was changed", "state export")

    add_partitions(house, house.state_topic, 2)
    house.partitions = 2
    worker = start(house)
    house.delete_topic(house.state_topic)
    refused(
        worker,
        78,
        f"{house.state_topic}, which holds",
        "is kept",
        "state restore-changelog --topic",
    )
    assert any(house.store().iterdir())


def test_a_wrong_clock_is_told_of_as_that(house: House) -> None:
    """Events are recognised by the brokers' time, whatever this machine says it is."""
    house.build(options=", dedupe_window=timedelta(hours=1)")
    skewed = house.checkout / "agents/a_clock.py"
    skewed.write_text(CLOCK.format(seconds=-7200))
    worker = start(house)
    house.send(house.thing("a", 1, event_id="once"))
    house.wait_settled(1, worker)
    wait_for(lambda: bool(worker.answer("/readyz")[1]["warnings"]))
    status, answer = worker.answer("/readyz")
    assert status == 200
    assert "s behind the brokers': set it by NTP" in answer["warnings"][0]
    assert worker.stop() == 0

    skewed.unlink()
    worker = start(house)
    house.send(house.thing("a", 2, event_id="once"))
    house.wait_settled(2, worker)
    assert worker.rows("count") == {"a": 1}
    assert worker.answer("/readyz")[1]["warnings"] == []
    assert worker.stop() == 0
