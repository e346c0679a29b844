"""A worker stays in its group whatever it has to do, and a group that refuses it is told at once, with the cure."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from aiokafka import AIOKafkaConsumer

from famulus.kafka.group_members import members_of
from famulus.observability import metric_definitions as c
from tests.integration.test_metrics import families, series, value
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

POLL_MS = 10_000  # the shortest that may be set
POLL_S = POLL_MS / 1000
WAITING = """
from app import PermanentError


@handles(Thing, retry=Retry(1))
async def note(thing: Thing) -> None:
    while thing.note == "wait" and not Path("go").exists():
        await asyncio.sleep(0.05)
    if thing.note == "bad" and not Path("go").exists():
        raise PermanentError("no")
    count[thing.key] += 1
"""


def members(house: House) -> int:
    """How many workers the group has."""
    return len(asyncio.run(members_of(house.kafka, LIMIT_S)))


def stays(house: House, expected: int) -> None:
    """Let more time pass than a worker may go without a poll: the group has as many members as before."""
    time.sleep(POLL_S + 3)
    assert members(house) == expected


def test_a_stand_by_takes_over_however_long_it_had_nothing_to_do(house: House, do: Any) -> None:
    """Without partitions, and with every lane of its partition taken while dead letters come back.

    With `latest`, which is for a group that knows nothing of a topic: what came while nobody was
    there is handled.
    """
    house.build(WAITING)
    settings = {
        "KAFKA__CONSUMERCONFIG__MAXPOLLINTERVALMS": str(POLL_MS),
        "KAFKA__CONSUMERCONFIG__AUTOOFFSETRESET": "latest",
        "WORKER__PARTITIONCONCURRENCY": "1",
        "FAILURES__HANDLERTIMEOUTS": "0",
    }
    one = house.start("one", ready=1, **settings)
    two = house.start("two", ready=0, **settings)
    wait_for(lambda: members(house) == 2)
    stays(house, 2)
    one.signal(signal.SIGKILL)
    house.send(house.thing("a"), house.thing("a", 1, "bad"))
    house.wait_settled(2, two)
    assert two.rows("count") == {"a": 1}

    three = house.start("three", ready=0, **settings)
    wait_for(lambda: three.answer("/readyz")[0] == two.answer("/readyz")[0] == 200)
    house.send(*(house.thing("a", number, "wait") for number in range(2, 8)))
    wait_for(lambda: value(series(families(two)), c.IN_HAND) == 1)
    do("dlq", "redrive", "--everything", "--yes")
    stays(house, 2)
    two.signal(signal.SIGKILL)
    (house.checkout / "go").touch()
    house.wait_settled(8, three)
    wait_for(lambda: three.rows("count") == {"a": 8})
    for worker in (two, three):
        assert "LeaveGroup" not in worker.log.read_text("utf-8", "replace")
    assert three.stop() == 0


@contextmanager
def foreign_member(house: House) -> Iterator[None]:
    """Have a consumer in the group that shares out partitions in another way."""
    is_in, is_over = Event(), Event()

    async def run() -> None:
        consumer = AIOKafkaConsumer(
            house.topic,
            bootstrap_servers=house.kafka.bootstrap_servers,
            group_id=house.group,
            client_id="stranger",
        )
        await consumer.start()
        try:
            is_in.set()
            while not is_over.is_set():
                await consumer.getmany(timeout_ms=100)
        finally:
            await consumer.stop()

    thread = Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert is_in.wait(LIMIT_S)
        yield
    finally:
        is_over.set()
        thread.join(LIMIT_S)


def refused(house: House, name: str, **settings: str) -> str:
    """Start a worker that the group does not take, and return the line that it ends with."""
    worker = house.start(name, ready=0, **settings)
    assert worker.wait_exit(3 * LIMIT_S) == 78, worker.last_words()
    return worker.last_words()


def test_a_group_that_refuses_a_worker_is_told_with_the_cure(house: House) -> None:
    """Before its first assignment; a foreign member that leaves in time is waited for.

    With a session that is longer than what Faust has for a request.
    """
    house.build()
    long_session = {"KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": "120000"}
    with foreign_member(house):
        line = refused(house, "one", WORKER__STARTUPTIMEOUTS="3", **long_session)
        assert f"consumer group {house.group} is used by stranger@" in line
        worker = house.start("two", ready=0, WORKER__STARTUPTIMEOUTS="200", **long_session)
        wait_for(lambda: "is used by stranger@" in worker.answer("/readyz")[1].get("why", ""))
    worker.wait_ready()
    wait_for(lambda: worker.answer("/readyz")[1]["why"] == "")
    assert worker.stop() == 0
    line = refused(
        house,
        "three",
        WORKER__STARTUPTIMEOUTS="1",
        KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS="1800001",
    )
    assert "SessionTimeoutMs is 1800001 ms, the brokers allow 6000 to 1800000 ms" in line


HOLDING = """
import ctypes


@handles(Thing, retry=Retry(2))
async def note(thing: Thing) -> None:
    with Path("runs").open("a") as file:
        file.write(thing.note + "\\n")
    if thing.note == "hold":
        ctypes.PyDLL(None).sleep(10)  # keeps the interpreter, as a long search of a regular expression does
    count[thing.key] += 1
"""


def test_an_event_that_throws_its_worker_out_of_the_group_becomes_a_dead_letter(
    house: House, do: Any
) -> None:
    """After as many attempts as it may have: nothing of the worker went on while it was at it."""
    house.build(HOLDING)
    worker = house.start()
    house.send(house.thing("a", 1), house.thing("b", 2, "hold"), house.thing("a", 3))
    house.wait_settled(3, worker, timeout_s=4 * LIMIT_S)
    assert worker.rows("count") == {"a": 2}
    # The first one may not be sure.
    assert (house.checkout / "runs").read_text().split().count("hold") in {2, 3}
    assert house.outcomes(worker)["dead_lettered"] == 1
    assert "held the event loop 2 times" in do("dlq", "list", "--each")
    assert worker.stop() == 0
