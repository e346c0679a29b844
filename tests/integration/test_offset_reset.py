"""`AutoOffsetReset` is for a group that knows nothing of a topic: retention and new partitions skip nothing."""

import asyncio
import signal
import time

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import add_partitions
from famulus.observability import metric_definitions as c
from tests.integration.test_metrics import families, series, value
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

NOTING = """
@handles(Thing)
async def note(thing: Thing) -> None:
    count[thing.key] += thing.number
    with Path("handled").open("a") as file:
        file.write(f"{thing.key} {thing.number}\\n")
"""
FETCH_S = 0.1  # a fetch that finds nothing


def handled(house: House, key: str) -> list[int]:
    """The numbers of a key that were handled."""
    file = house.checkout / "handled"
    lines = file.read_text().splitlines() if file.exists() else []
    return [int(number) for name, number in map(str.split, lines) if name == key]


def send(house: House, first: int, last: int) -> None:
    """Events whose numbers are their offsets in partition 0."""
    house.send(*(house.thing("a", number, partition=0) for number in range(first, last + 1)))


def delete_below(house: House, offset: int) -> None:
    """What retention does to partition 0."""
    house.admin(
        lambda admin: admin.delete_records(
            {TopicPartition(house.topic, 0): RecordsToDelete(offset)}
        )
    )


def gone(worker: WorkerProcess) -> float:
    """How many offsets the worker counts as deleted unread."""
    return value(series(families(worker)), c.GONE)


@pytest.mark.parametrize(("reset", "options"), [("latest", ", dedupe=False"), ("earliest", "")])
def test_what_is_left_of_a_log_is_read_and_what_is_gone_is_told(
    house: House, reset: str, options: str
) -> None:
    """Overtaken by retention while it runs, and while it does not; a new partition of a topic that it knows."""
    house.build(NOTING if reset == "earliest" else NOTING.replace("count[", "# "), options=options)
    if reset == "latest":  # a subscription that remembers nothing
        agent = house.checkout / "agents/things.py"
        agent.write_text(agent.read_text().replace("count = ", "# "))
    settings = {
        "KAFKA__CONSUMERCONFIG__AUTOOFFSETRESET": reset,
        "KAFKA__CONSUMERCONFIG__SESSIONTIMEOUTMS": "60000",
    }
    send(house, 0, 0)
    worker = house.start(ready=1, **settings)
    first = {"latest": [], "earliest": [0]}[reset]
    wait_for(lambda: house.committed() == {0: 1})
    assert handled(house, "a") == first

    worker.signal(signal.SIGSTOP)
    time.sleep(5 * FETCH_S)  # what was asked for is answered, with nothing
    send(house, 1, 30)
    delete_below(house, 11)
    worker.signal(signal.SIGCONT)
    wait_for(lambda: handled(house, "a") == [*first, *range(11, 31)])
    assert gone(worker) == 10
    assert "records 1 to 10 are gone" in house.wait_log(worker, "are gone from the topic")
    wait_for(lambda: house.committed() == {0: 31})
    assert worker.stop() == 0

    send(house, 31, 40)
    delete_below(house, 36)
    if reset == "latest":
        asyncio.run(add_partitions(house.kafka, house.topic, 2, LIMIT_S))
        house.send(*(house.thing("b", number, partition=1) for number in range(3)))
    worker = house.start("one", ready=1, **settings)
    wait_for(lambda: handled(house, "a") == [*first, *range(11, 31), *range(36, 41)])
    assert gone(worker) == 5
    assert "records 31 to 35 are gone" in house.wait_log(worker, "records 31 to")
    if reset == "latest":
        wait_for(lambda: handled(house, "b") == [0, 1, 2])
    assert worker.stop() == 0
