"""What handlers publish leaves once or not at all; when their worker is killed its reader still counts it once.

`KILL_ROUNDS` says how often at each step (1; a campaign has 13).
"""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from famulus.dev.broker import Broker
from famulus.dev.worker import WorkerProcess
from famulus.serialization.records import Headers
from famulus.state.changelog import Logged
from tests.support.on_kafka.house import AGENT, MODEL, House, processed, wait_for

ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
# From where the cluster has what a group publishes to where it has what else the group did.
STEPS = ["published", "sending", "sent", "acknowledged"]
EVENTS, EACH = 20, 3  # of a round, and what the handler publishes for each
PARTITIONS = 4  # of what is published
EFFECT = """

class Effect(Event, namespace="things.Effect", topic="effects", key="name"):
    name: str
"""
PUBLISHING = """
from app import EventBus, PermanentError, TransientError


@handles(Thing, retry=Retry(2, 0.05))
async def announce(thing: Thing, delivery: Delivery, bus: EventBus) -> None:
    for part in range(3):
        await bus.publish(Effect(name=f"{thing.key}-{thing.number}-{part}"))
    count[thing.key] += 1
    if thing.note == "bad":
        raise PermanentError("no")
    if thing.note == "never" or (thing.note == "late" and delivery.attempt == 1):
        raise TransientError("no")
"""
WAITING = """
from app import EventBus


@handles(Thing)
async def announce(thing: Thing, bus: EventBus) -> None:
    if thing.note == "slow":
        Path("begun").touch()
        await asyncio.sleep(1)
    await bus.publish(Effect(name=f"{thing.key}"))
"""
DYING = """
import os
import signal

published = False


def die(step):
    global published
    if not Path("step").exists():
        published = False
        return
    published = published or step == "published"
    if published and step == Path("step").read_text():
        Path("step").unlink()
        os.kill(os.getpid(), signal.SIGKILL)


app.probe = die
"""
RANDOM_IDS = """
from uuid import uuid4
from famulus.producer import event_headers as attributes

attributes.derived_id = lambda *_: str(uuid4())
"""
COUNTING_EFFECTS = """
@handles(Effect)
async def note(effect: Effect) -> None:
    count[effect.name] += 1
"""
StartWorker = Callable[..., WorkerProcess]


def build(house: House, handlers: str) -> str:
    """Write the fork and make its topics; returns the one that its handler publishes to, as on the cluster."""
    house.build(handlers, models=MODEL + EFFECT)
    effects = house.kafka.topic("effects")
    house.make_topics(effects, f"{effects}.dead-letter", partitions=PARTITIONS)
    return effects


def start_reader(house: House, start_worker: StartWorker, folder: Path) -> WorkerProcess:
    """Start a worker of another group, which counts what it reads of each name."""
    shutil.copytree(house.checkout, folder)
    source = AGENT.format(options="", handlers=COUNTING_EFFECTS).replace('"things"', '"effects"')
    (folder / "agents/things.py").write_text(source)
    return start_worker(
        "reader",
        ready=PARTITIONS,
        cwd=folder,
        KAFKA__CONSUMERCONFIG__GROUPID=f"{house.group}-reader",
        WORKER__COMMITINTERVALS="0.2",
    )


def kill_at(house: House, worker: WorkerProcess, step: str, number: int) -> WorkerProcess:
    """Have *worker* die at *step* of the events of round *number*; returns its successor, when it has handled them."""
    (house.checkout / "step").write_text(step)
    house.send(*(house.thing(f"k{key}", number) for key in range(EVENTS)))
    assert worker.wait_exit(20) == -9, step
    house.kill(worker)
    successor = house.start()
    wait_for(lambda: processed(successor) == EVENTS * (number + 1))
    return successor


def published(house: House, topic: str) -> list[Logged]:
    """Every record of the topic that the handler publishes to."""
    return [record for partition in range(PARTITIONS) for record in house.logged(partition, topic)]


def identity(headers: Headers) -> bytes:
    """The id of an event."""
    return dict(headers)["ce_id"]


def carry_out(
    house: House, start_worker: StartWorker, folder: Path, handlers: str, steps: list[str]
) -> dict[str, int]:
    """Kill at each of *steps*; returns how often the reader saw each event take effect."""
    topic = build(house, handlers)
    reader, worker = start_reader(house, start_worker, folder), house.start()
    for number, step in enumerate(steps):
        worker = kill_at(house, worker, step, number)
    assert worker.stop() == 0
    house.wait_settled(len(published(house, topic)), reader)
    return {name: int(times) for name, times in reader.rows("count").items()}


@pytest.mark.timeout(120 + 240 * ROUNDS)
def test_a_kill_between_publishing_and_settling_doubles_no_effect(
    house: House, start_worker: StartWorker, tmp_path: Path
) -> None:
    """What was published comes again with the ids that it had, so it takes effect once."""
    steps = STEPS * ROUNDS
    seen = carry_out(house, start_worker, tmp_path / "reader-fork", DYING + PUBLISHING, steps)
    names = {
        f"k{key}-{n}-{part}"
        for n in range(len(steps))
        for key in range(EVENTS)
        for part in range(EACH)
    }
    assert seen == dict.fromkeys(names, 1)
    copies: dict[bytes, set[bytes | None]] = defaultdict(set)
    records = published(house, house.kafka.topic("effects"))
    for record in records:
        copies[identity(record.headers)].add(record.value)
    assert len(copies) == len(names)
    assert all(len(values) == 1 for values in copies.values()), "two events with one id"
    again = len(records) - len(copies)
    assert again >= EACH * ROUNDS, "nothing was published twice, so nothing was shown"
    print(  # for whoever runs the campaign
        f"{len(steps)} kills, {len(names)} events, {again} of them published again, each took "
        "effect once"
    )


def test_ids_that_are_made_anew_would_show(
    house: House, start_worker: StartWorker, tmp_path: Path
) -> None:
    """With random ids the same kill doubles effects: this test can fail."""
    seen = carry_out(
        house,
        start_worker,
        tmp_path / "reader-fork",
        DYING + RANDOM_IDS + PUBLISHING,
        ["published"],
    )
    assert max(seen.values()) > 1


def test_a_handler_that_publishes_and_fails_has_published_nothing(house: House) -> None:
    """Not at once, not when it is tried again in vain; with its second attempt each event once.

    Nor are rows kept.
    """
    topic = build(house, PUBLISHING)
    worker = house.start()
    house.send(
        house.thing("a", note="bad"), house.thing("b", note="never"), house.thing("c", note="late")
    )
    house.wait_settled(3, worker)
    records = published(house, topic)
    assert sorted(record.key for record in records) == [b"c-0-0", b"c-0-1", b"c-0-2"]
    assert len({identity(record.headers) for record in records}) == EACH
    assert worker.rows("count") == {"c": 1}
    assert len(house.logged(0, f"{house.topic}.dead-letter")) == 2
    assert worker.stop() == 0


def test_a_broker_that_is_gone_for_longer_than_a_delivery_may_take(
    house_on: Callable[[Broker], House],
) -> None:
    """The worker waits for it, and what its handlers publish leaves when it is back."""
    with Broker() as broker:
        house = house_on(broker)
        house.build(WAITING, options=", dedupe=False", models=MODEL + EFFECT)
        house.make_topics("effects", partitions=PARTITIONS)
        worker = house.start(KAFKA__PRODUCERCONFIG__DELIVERYTIMEOUTMS="2000")
        house.send(*(house.thing(f"k{number}") for number in range(10)))
        house.wait_settled(10, worker)
        house.send(*(house.thing(f"k{number}", note="slow") for number in range(10, 20)))
        wait_for((house.checkout / "begun").exists)
        broker.nodes[0].kill()
        house.wait_log(worker, "nothing of the partition is settled until this is sent")
        time.sleep(5)
        broker.restart(broker.nodes[0])
        house.wait_settled(20, worker, timeout_s=60)
        names = {json.loads(record.value or b"")["name"] for record in published(house, "effects")}
        assert names == {f"k{number}" for number in range(20)}
        assert worker.stop() == 0
