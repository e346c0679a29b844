"""Events that are published for later, on the real broker: never early, never lost, whoever dies meanwhile."""

import asyncio
import json
import secrets
import signal
from datetime import UTC, datetime, timedelta

import pytest
from aiokafka.structs import ConsumerRecord

from famulus import Event
from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.results import UnknownTopicError
from famulus.producer.scheduling import WAITS_S, NotScheduledError
from tests.support.on_kafka.house import LIMIT_S, House, wait_for
from tests.support.on_kafka.things import Thing

HANDLERS = """
import os
import signal
from aiokafka import AIOKafkaConsumer
from app import EventBus, PermanentError

commit = AIOKafkaConsumer.commit


async def dying(self, offsets=None):
    if Path("die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    await commit(self, offsets)


AIOKafkaConsumer.commit = dying


@handles(Thing)
async def note(thing: Thing, bus: EventBus) -> None:
    count[thing.key] += 1
    if thing.note.startswith("in "):
        later = datetime.now().astimezone() + timedelta(seconds=float(thing.note[3:]))
        await bus.publish(Thing(key="late " + thing.key, number=round(later.timestamp() * 1000)), not_before=later)
        if thing.number:
            raise PermanentError("no")
"""


class Stranger(Event, namespace="things.Stranger", topic="strangers", key="key"):
    """An event whose topic is not there."""

    key: str
    note: str = ""


def started(house: House, name: str = "one", ready: int | None = None) -> WorkerProcess:
    """A worker that sees to events for later."""
    return house.start(name, ready=ready, KAFKA__SCHEDULEMAXH="48")


def publish(kafka: KafkaConfig, *events: tuple[Event, datetime]) -> None:
    """Publish *events* for their times from outside of any worker."""

    async def run() -> None:
        settings = kafka.model_copy(update={"schedule_max_h": 48.0})
        async with EventBus(Producer(settings)) as bus:
            for event, due in events:
                await bus.publish(event, not_before=due, headers=[("own", b"1")])

    asyncio.run(run())


def waiting(house: House) -> list[ConsumerRecord]:
    """What the scheduling topic has had, by how long it waits at a time."""
    return [
        each
        for place in range(len(WAITS_S))
        for each in house.logged(place, f"{house.group}.scheduled")
    ]


def late(house: House, topic: str = "") -> list[ConsumerRecord]:
    """What was published for later, and has come to the topic of the house, or to another one."""
    return [
        record
        for record in house.logged(topic=topic or house.topic)
        if record.key.startswith(b"late ")
    ]


def in_s(seconds: float) -> datetime:
    """So long from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def rows(worker: WorkerProcess) -> dict[str, int]:
    """What the handler has counted."""
    return dict(worker.get("/tables/count/?limit=1000")["rows"])


def test_each_comes_in_its_time_and_as_it_was(house: House) -> None:
    """One for tomorrow, published first, holds up none of the others; what has passed comes at once."""
    house.build(HANDLERS)
    started(house)
    due = {
        "late tomorrow": in_s(86_400),
        "late 3": in_s(3),
        "late 2": in_s(2),
        "late past": in_s(-60),
    }
    publish(house.kafka, *((Thing(key=key), at) for key, at in due.items()))
    house.send(house.thing("a", 0, "in 2"))
    wait_for(lambda: len(late(house)) == 4)
    found = {record.key.decode(): record for record in late(house)}
    assert found.keys() == due.keys() - {"late tomorrow"} | {"late a"}
    for key in ("late 3", "late 2"):
        assert 0 <= found[key].timestamp - due[key].timestamp() * 1000 < 5_000
        headers = dict(found[key].headers)
        assert (headers["own"], headers["ce_type"], headers["ce_subject"]) == (
            b"1",
            b"things.Thing",
            key.encode(),
        )
        assert not [name for name in headers if name.startswith("famulus")]
    inside = json.loads(found["late a"].value or b"")
    assert 0 <= found["late a"].timestamp - inside["number"] < 5_000
    assert dict(found["late a"].headers)["ce_causationid"] == b"a-0"


def test_a_handler_that_fails_has_published_nothing(house: House) -> None:
    """What is for later leaves with the event's other effects or not at all."""
    house.build(HANDLERS)
    worker = started(house)
    house.send(house.thing("a", 1, "in 0.5"), house.thing("b", 0, "in 0.5"))
    wait_for(lambda: len(late(house)) == 1)
    house.wait_settled(3, worker)
    assert [record.key for record in late(house)] == [b"late b"]
    assert house.outcomes(worker)["dead_lettered"] == 1


def test_a_worker_that_is_killed_while_it_waits_changes_nothing(house: House) -> None:
    """The next one has it leave: once, not before its time, with the id that it had."""
    house.build(HANDLERS)
    worker = started(house)
    house.send(house.thing("a", 0, "in 8"))
    house.wait_settled(1, worker)
    [before] = waiting(house)
    house.kill(worker)
    assert not late(house)
    worker = started(house)
    wait_for(lambda: len(late(house)) == 1)
    house.wait_settled(2, worker)
    [record] = late(house)
    assert record.timestamp >= json.loads(record.value or b"")["number"]
    assert dict(record.headers)["ce_id"] == dict(before.headers)["ce_id"]
    assert rows(worker) == {"a": 1, "late a": 1}


def test_a_worker_that_is_killed_before_its_commit_takes_effect_once(house: House) -> None:
    """The event comes again, and is recognised by its id."""
    house.build(HANDLERS)
    worker = started(house)
    publish(house.kafka, (Thing(key="late a"), in_s(1)))
    (house.checkout / "die").touch()
    worker.wait_exit(30)
    house.kill(worker)
    (house.checkout / "die").unlink()
    assert len(late(house)) == 1
    worker = started(house)
    wait_for(lambda: len(late(house)) == 2)
    house.wait_settled(2, worker)
    first, again = late(house)
    assert list(first.headers) == list(again.headers)
    assert rows(worker) == {"late a": 1}
    assert house.outcomes(worker)["duplicate"] == 1


def test_workers_that_come_and_go_lose_nothing(house: House) -> None:
    """One joins while events wait, the other ends cleanly, with some in hand."""
    house.build(HANDLERS)
    first = started(house)
    due = {f"late {number}": in_s(2 + number / 25) for number in range(300)}
    publish(house.kafka, *((Thing(key=key), at) for key, at in due.items()))
    second = started(house, "two", 0)
    wait_for(lambda: len(late(house)) > 50)
    first.signal(signal.SIGTERM)
    assert first.wait_exit(30) == 0
    wait_for(lambda: len({record.key for record in late(house)}) == len(due))
    came = late(house)
    assert all(record.timestamp >= due[record.key.decode()].timestamp() * 1000 for record in came)
    assert len({dict(record.headers)["ce_id"] for record in came}) == len(due)
    wait_for(lambda: len(rows(second)) == len(due))
    assert set(rows(second).values()) == {1}


def test_a_topic_that_is_not_there_holds_up_no_other(house: House) -> None:
    """Its events are tried again until it is there; one that is too large for it holds up none of its own topic."""
    house.build(HANDLERS)
    worker = started(house)
    large = Stranger(key="late large", note=secrets.token_hex(10_000))
    publish(
        house.kafka,
        (large, in_s(1)),
        (Stranger(key="late s"), in_s(1)),
        (Thing(key="late a"), in_s(1)),
    )
    wait_for(lambda: len(late(house)) == 1)
    house.wait_log(worker, "they are tried again")
    strangers = house.kafka.topic("strangers")
    asyncio.run(create_topics(house.kafka, {strangers: 1}, LIMIT_S, {"max.message.bytes": "5000"}))
    wait_for(lambda: len(late(house, strangers)) == 1)
    assert [record.key for record in late(house, strangers)] == [b"late s"]
    assert "too large" in house.wait_log(worker, "events=1")


def test_a_large_payload_waits_in_the_event_and_leaves_as_a_claim_check(house: House) -> None:
    """So that it does not expire in the store while it waits."""
    house.build(HANDLERS)
    store = house.folder / "claims"
    store.mkdir()
    settings = {"CLAIMCHECK__STORE": str(store), "CLAIMCHECK__THRESHOLDBYTES": "1000"}
    worker = house.start("one", ready=1, KAFKA__SCHEDULEMAXH="48", **settings)
    publish(house.kafka, (Thing(key="late large", note="x" * 2_000), in_s(3)))
    wait_for(lambda: bool(waiting(house)))
    assert not list(store.iterdir())
    wait_for(lambda: bool(late(house)))
    assert late(house)[0].value == b'"famulus-claim"'
    house.wait_settled(1, worker)
    assert rows(worker) == {"late large": 1}


def test_without_the_setting_nothing_is_for_later(house: House) -> None:
    """It is said to who publishes; there is no topic and no group that nobody asked for."""
    house.build(HANDLERS)
    worker = house.start()
    with pytest.raises(NotScheduledError, match="more than 48 hours"):
        publish(house.kafka, (Thing(key="a"), in_s(49 * 3600)))
    with pytest.raises(
        UnknownTopicError,
        match=r"a worker of the group makes it when it starts with Kafka\.ScheduleMaxH",
    ):
        publish(house.kafka, (Thing(key="a"), in_s(60)))
    house.send(house.thing("b", 0, "in 5"))
    house.wait_settled(1, worker)
    assert house.outcomes(worker)["dead_lettered"] == 1
    assert f"{house.group}.scheduled" not in house.admin(lambda admin: admin.list_topics())
