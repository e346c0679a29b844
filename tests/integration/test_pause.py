"""Pausing a live group: by command and over the web, through a kill and a restart; and each event once, in order."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from famulus.control.pauses import admin_audit_topic
from famulus.dev.worker import WorkerProcess
from famulus.kafka.group_members import members_of
from famulus.observability import metric_definitions as c
from famulus.webserver.auth import ADMIN_FILE
from tests.integration.test_metrics import families, series, value
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import House, wait_for

# Each handled event leaves a line; a kill between the line and the settling may leave it twice, so
# none is killed then.
NOTING = """
@handles(Thing)
async def note(thing: Thing) -> None:
    while thing.note == "wait" and not Path("go").exists():
        await asyncio.sleep(0.05)
    count[thing.key] += 1
    with Path("handled").open("a") as file:
        file.write(f"{thing.key} {thing.number}\\n")
"""
# The first attempt fails; the next one waits in the lane, or in a retry topic.
AGAIN = """
from app import TransientError


@handles(Thing, retry=Retry({attempts}, wait_initial_s=3, jitter=0){topics})
async def note(thing: Thing, delivery: Delivery) -> None:
    if delivery.attempt == 1:
        raise TransientError("no")
    count[thing.key] += 1
    with Path("handled").open("a") as file:
        file.write(f"{{thing.key}} {{thing.number}}\\n")
"""
POLL_MS = 10_000  # the shortest that may be set


def handled(house: House) -> dict[str, list[int]]:
    """The numbers that were handled, in their order, by key."""
    found: dict[str, list[int]] = {}
    file = house.checkout / "handled"
    for line in file.read_text().splitlines() if file.exists() else ():
        key, number = line.split()
        found.setdefault(key, []).append(int(number))
    return found


def paused_at(*workers: WorkerProcess) -> set[str]:
    """The partitions that stand still, by what *workers* say."""
    return {number for worker in workers for number in worker.get("/subscriptions/")[0]["paused"]}


def post(worker: WorkerProcess, path: str = "/paused/", **asked: object) -> tuple[int, Any]:
    """What the worker's web view answers."""
    request = worker.request(path, ADMIN_FILE, "POST")
    request.data = json.dumps(asked).encode()
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def send(house: House, first: int, last: int, partitions: int = 4) -> None:
    """Numbers *first* to *last* for one key of each partition."""
    house.send(
        *(
            house.thing(f"k{p}", n, partition=p)
            for n in range(first, last + 1)
            for p in range(partitions)
        )
    )


def test_a_pause_outlives_a_kill_and_every_event_counts_once(house: House, do: Any) -> None:
    """Two workers, one dies while their topic is paused; a third that starts later knows of it, too."""
    house.build(NOTING, partitions=4)
    quick = {"KAFKA__CONSUMERCONFIG__MAXPOLLINTERVALMS": str(POLL_MS)}
    one = house.start("one", ready=4, **quick)
    two = house.start("two", ready=1, **quick)
    wait_for(lambda: len(one.get("/subscriptions/")[0]["next_offsets"]) == 2)
    send(house, 1, 5)
    wait_for(lambda: handled(house) == {f"k{p}": [*range(1, 6)] for p in range(4)})
    house.wait_settled(20, one, two)

    assert "paused: " in do("pause", "things", "--note", "moving")
    wait_for(lambda: paused_at(one, two) == {"0", "1", "2", "3"})
    send(house, 6, 30)
    house.kill(one)
    two.wait_ready(partitions=4)
    began = time.monotonic()
    three = house.start("three", ready=2, **quick)
    wait_for(lambda: len(two.get("/subscriptions/")[0]["next_offsets"]) == 2)
    send(house, 31, 40)
    assert paused_at(two, three) == {"0", "1", "2", "3"}
    ready = two.get("/readyz")
    assert (ready["status"], ready["why"]) == ("ready", "")
    assert ready["paused"][0].endswith(": moving")
    found = series(families(two))
    assert (value(found, c.PAUSED, topic=house.topic), value(found, c.READY)) == (2, 1)
    # For longer than a worker may go without polling: none leaves the group over a pause.
    time.sleep(max(POLL_MS / 1000 + 5 - (time.monotonic() - began), 0))
    assert handled(house) == {f"k{p}": [*range(1, 6)] for p in range(4)}
    assert len(asyncio.run(members_of(house.kafka, 30))) == 2

    assert json.loads(do("resume", "things", "--json")) == {
        "action": "resume",
        "changed": [house.topic],
        "paused": [],
    }
    wait_for(
        lambda: (
            {key: len(of) for key, of in handled(house).items()} == {f"k{p}": 40 for p in range(4)}
        )
    )
    house.wait_settled(160, two, three)
    assert handled(house) == {f"k{p}": [*range(1, 41)] for p in range(4)}
    assert paused_at(two, three) == set()
    audits = [
        json.loads(logged.value or b"")
        for logged in house.logged(topic=admin_audit_topic(house.group))
    ]
    assert [(a["action"], a["what"], a["note"]) for a in audits] == [
        ("pause", house.topic, "moving"),
        ("resume", house.topic, ""),
    ]
    assert "@" in audits[0]["by"]
    assert two.stop() == 0
    assert three.stop() == 0


def test_one_partition_is_paused_over_the_web(house: House, do: Any) -> None:
    """What is in hand ends and is committed; others go on; a restart changes nothing.

    What cannot be is said.
    """
    house.build(NOTING, partitions=2)
    worker = house.start()
    house.send(house.thing("k0", 1, "wait", partition=0), house.thing("k0", 2, partition=0))
    wait_for(lambda: value(series(families(worker)), c.IN_HAND, partition="0") == 1)
    status, rows = post(worker, action="pause", topic="things", partition=0, note="why")
    assert status == 200
    assert [(row["topic"], row["partition"], row["note"]) for row in rows] == [
        (house.topic, 0, "why")
    ]
    assert worker.get("/paused/") == rows == json.loads(do("paused", "--json"))
    house.send(house.thing("k1", 1, partition=1))
    wait_for(lambda: handled(house) == {"k1": [1]})
    (house.checkout / "go").touch()
    wait_for(lambda: house.committed() == {0: 1, 1: 1})
    assert worker.stop() == 0

    worker = house.start()
    house.send(house.thing("k1", 2, partition=1))
    wait_for(lambda: handled(house) == {"k0": [1], "k1": [1, 2]})
    assert paused_at(worker) == {"0"}
    for asked, expected in (
        ({"action": "pause", "topic": "nothing"}, 404),
        ({"action": "pause", "topic": "things", "partition": 2}, 404),
        ({"action": "stop", "topic": "things"}, 400),
        ({"action": "pause"}, 400),
        ({"action": "pause", "topic": "*"}, 200),
        ({"action": "resume", "topic": "things", "partition": 0}, 409),
    ):
        assert post(worker, **asked)[0] == expected, asked
    assert "since everything is: resume that" in one_line(do("resume", "things", code=1))
    assert paused_at(worker) == {"0", "1"}
    assert post(worker, action="resume", topic="*") == (200, [])
    wait_for(lambda: handled(house) == {"k0": [1, 2], "k1": [1, 2]})
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("attempts", "topics", "waits"), [(2, "", c.RESTING), (1, ', retry_topics=["3s"]', c.POSTPONED)]
)
def test_no_further_attempt_is_made_meanwhile(
    house: House, attempts: int, topics: str, waits: c.Metric
) -> None:
    """Neither in the lane nor out of a retry topic, although it is due; each is made once it goes on."""
    house.build(AGAIN.format(attempts=attempts, topics=topics))
    worker = house.start()
    house.send(house.thing("a", 1), house.thing("b", 1))
    wait_for(lambda: value(series(families(worker)), waits) == 2)
    assert post(worker, action="pause", topic="*")[0] == 200
    assert paused_at(worker) == {"0"}
    time.sleep(5)
    assert handled(house) == {}
    assert post(worker, action="resume", topic="*") == (200, [])
    wait_for(lambda: handled(house) == {"a": [1], "b": [1]})
    house.wait_settled(2, worker)
    assert worker.stop() == 0


def test_a_drained_worker_ends_with_0_and_another_goes_on(house: House) -> None:
    """What it has in hand is ended and committed first; who asked is written down once."""
    house.build(NOTING, partitions=2)
    one = house.start("one")
    house.send(house.thing("k0", 1, "wait", partition=0))
    wait_for(lambda: value(series(families(one)), c.IN_HAND, partition="0") == 1)
    assert post(one, "/drain/")[0] == 400
    answers = [post(one, "/drain/", note="too many") for _ in range(2)]
    assert [(status, answer["status"]) for status, answer in answers] == [(202, "draining")] * 2
    time.sleep(1)
    assert one.exit_code() is None
    (house.checkout / "go").touch()
    assert one.wait_exit(30) == 0
    assert house.committed()[0] == 1
    [audit] = [
        json.loads(logged.value or b"")
        for logged in house.logged(topic=admin_audit_topic(house.group))
    ]
    assert (audit["action"], audit["note"]) == ("drain", "too many")
    two = house.start("two")
    house.send(house.thing("k0", 2, partition=0))
    wait_for(lambda: handled(house) == {"k0": [1, 2]})
    assert two.stop() == 0


def test_what_is_wrong_is_one_line(house: House, do: Any) -> None:
    """Also before any worker has run."""
    house.build(NOTING)
    assert "nothing is paused" in do("paused")
    assert "nothing of" in do("resume", "--all")
    assert "things" in one_line(do("pause", "nothing", code=78))
    assert "has 1 partitions" in one_line(do("pause", "things", "--partition", "1", code=78))
    assert "name a TOPIC, or say --all" in do("pause", code=2)
    code, output = faust(
        "pause", "--all", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", WORKER__STARTUPTIMEOUTS="1"
    )
    assert code == 69, output
