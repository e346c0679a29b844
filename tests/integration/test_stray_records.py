"""Junk in every topic of the group's own, and a damaged batch: a worker is exact on everything else."""

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from famulus.control.pauses import admin_topic
from famulus.deadletter.topics import audit_topic, redrive_topic, retry_topic
from famulus.dev.broker import Broker
from famulus.dev.worker import WorkerProcess
from famulus.producer.scheduling import scheduling_topic
from famulus.state.changelog import CLAIM, PROCESSED, epoch_bytes
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.house import House, wait_for

RETRYING = """
from app import TransientError


@handles(Thing, retry=Retry(1), retry_topics=["1s"])
async def note(thing: Thing) -> None:
    if thing.note == "bad":
        raise TransientError
    count[thing.key] += 1
"""
DEEP = b'{"by": "me", "at": "now", "more": ' + b"[" * 5_000
EPOCHS: list[Any] = [
    [],
    *([("epoch", of)] for of in (b"abc", None, epoch_bytes(1), epoch_bytes(2**62))),
]
ORIGIN: list[Any] = [
    ("original-topic", b"things"),
    ("original-partition", b"\0\0\0\0"),
    ("original-offset", b"\5\0\0\0\0\0\0\0"),
    ("famulus-action", b"retry"),
    ("famulus-hops", b"0"),
    ("famulus-timestamp", b"5"),
    ("famulus-stage", b"1"),
]
LATER = [
    [*ORIGIN, ("famulus-due", due), ("famulus-first", first)]
    for due, first in ((b"9" * 400, b"5"), (b"1" + b"0" * 18, b"1" + b"0" * 18), (b"-1" * 3, b"5"))
]
Row = tuple[str, int, bytes, bytes | None, Any]  # Any: headers, some without a value


def junk(house: House) -> list[Row]:
    """Something that cannot be read for each topic of the group's own."""
    group, topic = house.group, house.topic
    keys = (CLAIM, b"a" + bytes(8), b"nothing of ours", b"d", b"\0position")
    letters = f"{topic}.dead-letter"
    return [
        *(
            (house.state_topic, part, key, DEEP, of)
            for part in range(2)
            for key in keys
            for of in EPOCHS
        ),
        *(
            (house.state_topic, part, key, b"\xff", of)
            for part in range(2)
            for key in (b"p", PROCESSED)
            for of in EPOCHS[:3]
        ),
        *(
            (admin_topic(group), 0, key, value, [])
            for key in (b"*", b"seek:x/1/2", b"concurrency:*", b"\xff")
            for value in (DEEP, b"\xff", b'{"offset": ' + b"9" * 400 + b"}")
        ),
        *(
            (retry_topic(topic, group, 1), 0, b"k", DEEP, headers)
            for headers in ([], [("x", None)], *LATER)
        ),
        *(
            (redrive_topic(topic, group), 0, b"k", DEEP, headers)
            for headers in ([], [("x", None)], *LATER)
        ),
        *(
            (scheduling_topic(group), 0, b"k", value, [("famulus-schedule-due", b"9" * 400)])
            for value in (DEEP, None)
        ),
        *(
            (letters, 0, b"k", value, [*ORIGIN, ("famulus-failure", b"\xff")])
            for value in (DEEP, b"\xff", None)
        ),
        *(
            (audit_topic(letters), 0, b"k", value, [])
            for value in (DEEP, b"\xff\xfe", b"9" * 400, None)
        ),
    ]


def send(house: House, rows: list[Row]) -> None:
    """Send *rows* as somebody does who knows nothing of us, one batch each."""

    async def run() -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=house.kafka.bootstrap_servers, max_batch_size=1
        ) as producer:
            for topic, partition, key, value, headers in rows:
                await producer.send_and_wait(
                    topic, value, key, partition=partition, headers=headers
                )

    asyncio.run(run())


def exact(house: House, worker: WorkerProcess, wanted: dict[str, int]) -> None:
    """Wait until the table is what was sent; the worker must say that it gets on."""
    wait_for(lambda: worker.rows("count") == wanted, why=lambda: f"{worker.rows('count')}")
    assert worker.answer("/readyz")[0] == 200, worker.answer("/readyz")
    assert "Traceback" not in worker.log.read_text("utf-8", "replace")


def page(worker: WorkerProcess, path: str) -> str:
    """What the worker answers, which must be 200."""
    with urllib.request.urlopen(worker.request(path), timeout=30) as response:
        return str(response.read().decode())


def damage(broker: Broker, topic: str, partition: int, text: bytes) -> None:
    """Change a byte of *text* in the segment of a partition, while the broker is down."""
    [node] = broker.nodes
    broker._end([node])
    segment = next((node.folder / "log" / f"{topic}-{partition}").glob("*.log"))
    raw = segment.read_bytes()
    assert raw.count(text) == 1
    segment.write_bytes(raw.replace(text, text[:-1] + bytes([text[-1] ^ 1])))
    broker.restart(node)


def test_junk_and_damage_end_where_they_are(
    house_on: Callable[[Broker], House], tmp_path: Path
) -> None:
    """While it runs, where another worker restores from it, and for commands; a damaged batch stops its partition."""
    with Broker() as broker:
        house = house_on(broker)
        house.build(RETRYING, partitions=2)
        house.make_topics(audit_topic(f"{house.topic}.dead-letter"), partitions=1)

        def do(*words: str) -> str:
            code, output = faust(
                *words, cwd=house.checkout, **settings_of(house.kafka, tmp_path / "command")
            )
            assert (code, "Traceback" in output) == (0, False), output
            return output

        def feed(number: int) -> None:
            house.send(*(house.thing(f"k{p}", number, partition=p) for p in range(2)))

        worker = house.start("one", KAFKA__SCHEDULEMAXH="1")
        feed(0)
        exact(house, worker, {"k0": 1, "k1": 1})
        send(house, junk(house))
        feed(1)
        house.send(house.thing("x", note="bad", partition=0))  # behind the junk in the retry topic
        exact(house, worker, {"k0": 2, "k1": 2})
        wait_for(lambda: house.outcomes(worker)["dead_lettered"] >= 1)
        send(house, [(admin_topic(house.group), 0, b"things", b'{"by": "me", "at": "now"}', [])])
        wait_for(lambda: bool(worker.get("/readyz")["paused"]))  # it follows the topic still
        send(house, [(admin_topic(house.group), 0, b"things", None, [])])
        wait_for(lambda: not worker.get("/readyz")["paused"])
        text = page(worker, "/metrics")
        for kind in ("state", "admin", "retry", "redrive", "scheduled"):
            assert f'famulus_stray_records_total{{kind="{kind}"}} 0.0' not in text, text
        assert "exhausted" in do("dlq", "list")
        assert "cannot be read, left alone" in do("dlq", "list")
        do("paused")
        assert "exhausted" in page(worker, "/console/dead-letters")
        assert worker.stop() == 0
        send(house, junk(house))
        feed(2)
        other = house.start("two", KAFKA__SCHEDULEMAXH="1")  # it has nothing on its disk
        exact(house, other, {"k0": 3, "k1": 3})
        assert other.stop() == 0

        house.send(house.thing("k1", 3, partition=1))
        house.send(house.thing("k1", 4, note="damaged", partition=1))
        house.send(house.thing("k1", 5, partition=1), house.thing("k0", 3, partition=0))
        damage(broker, house.topic, 1, b"damaged")
        third = house.start("two", KAFKA__SCHEDULEMAXH="1")
        wait_for(lambda: third.rows("count") == {"k0": 4, "k1": 4})
        line = house.wait_log(third, "cannot be read: its bytes are not those that were written")
        assert f"{house.topic}-1: the records from offset 4 to 4" in line
        assert f"`faust -A app seek {house.topic} --partition 1 --to-offset 5`" in line
        status, answer = third.answer("/readyz")
        assert (status, "cannot be read" in str(answer["why"])) == (503, True)
        assert "k0" in do("peek", house.topic, "--last", "20")
        do("seek", house.topic, "--partition", "1", "--to-offset", "5", "--yes")
        exact(house, third, {"k0": 4, "k1": 5})
        assert third.stop() == 0
