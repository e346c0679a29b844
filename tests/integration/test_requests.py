"""Requests and their replies on the real broker: whoever dies meanwhile, each gets its own, and nobody another's."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from famulus import Part
from famulus.config import KafkaConfig, RepliesConfig
from famulus.dev.broker import Broker
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import create_topics
from famulus.producer.connection import REMEMBERED_MAX
from famulus.producer.event_bus import EventBus
from famulus.producer.producer import Producer
from famulus.producer.reply_headers import RequestTimeoutError, TooManyRequestsError
from famulus.producer.results import UnknownTopicError
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import Logged
from tests.support.on_kafka.house import LIMIT_S, House, wait_for
from tests.support.on_kafka.things import Thing

HANDLERS = """
import os
import signal
from app import EventBus
from famulus import Part


class Answer(Part, namespace="things.Answer"):
    key: str
    number: int


def die(step: str) -> None:
    if step == "published" and Path("die").exists():
        os.kill(os.getpid(), signal.SIGKILL)


app.probe = die


@handles(Thing)
async def answer(thing: Thing, bus: EventBus) -> None:
    count[thing.key] += 1
    asked = await bus.reply(Answer(key=thing.key, number=2 * thing.number))
    if thing.note == "wait":
        Path("in-hand").touch()
    if not asked:
        Path("not-asked").touch()
    while thing.note == "wait" and not Path("go").exists():
        await asyncio.sleep(0.05)
"""


class Answer(Part, namespace="things.Answer"):
    """The reply."""

    key: str
    number: int


@asynccontextmanager
async def requesting(kafka: KafkaConfig, **replies: Any) -> AsyncIterator[EventBus]:
    """A bus of a process of its own."""
    settings = kafka.model_copy(update={"replies": RepliesConfig(**replies)})
    async with EventBus(Producer(settings)) as bus:
        yield bus


async def ask(
    bus: EventBus, thing: Thing, request_id: str = "", timeout_s: float = LIMIT_S
) -> Answer:
    """Ask for the answer to *thing*."""
    return await bus.request(thing, timeout_s=timeout_s, reply_type=Answer, request_id=request_id)


def replies(house: House) -> list[Logged]:
    """What the reply topic has had."""
    topic = f"{house.group}.replies"
    return [
        each
        for partition in range(house.kafka.partitions)
        for each in house.logged(partition, topic)
    ]


def rows(worker: WorkerProcess) -> dict[str, int]:
    """What the handler has counted."""
    return dict(worker.get("/tables/count/?limit=2000")["rows"])


def test_a_request_gets_its_reply(house: House) -> None:
    """The reply is caused by the request; an event that asks for nothing is handled, and answered by nobody."""
    house.build(HANDLERS)
    worker = house.start()

    async def run() -> list[Answer]:
        async with requesting(house.kafka) as bus:
            return [await ask(bus, Thing(key=key, number=21)) for key in ("a", "b")]

    assert asyncio.run(run()) == [Answer(key="a", number=42), Answer(key="b", number=42)]
    found = [dict(record.headers) for record in replies(house)]
    assert len(found) == 2
    for headers in found:
        assert headers["ce_type"] == b"things.Answer"
        assert headers["ce_causationid"] == headers["ce_correlationid"]
    house.send(house.thing("c", 1))
    house.wait_settled(3, worker)
    assert (house.checkout / "not-asked").exists()
    assert len(replies(house)) == 2
    assert rows(worker) == {"a": 1, "b": 1, "c": 1}


def test_a_request_that_timed_out_may_be_asked_again(house: House) -> None:
    """The late reply is dropped and counted; who asks again with the id gets it, and nothing is handled twice."""
    house.build(HANDLERS)
    worker = house.start()
    slow = Thing(key="a", number=4, note="wait")

    async def run() -> None:
        async with requesting(house.kafka) as bus:
            with pytest.raises(
                RequestTimeoutError, match=r"no reply to Thing .* in 3 s: it may still be handled"
            ) as received:
                await ask(bus, slow, timeout_s=3)
            assert bus.late_replies == 0
            (house.checkout / "go").touch()
            async with asyncio.timeout(LIMIT_S):
                while not bus.late_replies:  # it is a count
                    await asyncio.sleep(0.05)
            assert await ask(bus, slow, received.value.request_id) == Answer(key="a", number=8)
        async with requesting(house.kafka) as bus:  # as after a restart
            assert await ask(bus, slow, received.value.request_id) == Answer(key="a", number=8)
            assert bus.late_replies == 0

    asyncio.run(run())
    assert len(replies(house)) == 1
    assert rows(worker) == {"a": 1}


def test_a_responder_that_is_killed_is_succeeded(house: House) -> None:
    """The request is in the log, so the next worker handles it, and the reply comes from that one."""
    house.build(HANDLERS)
    first = house.start()

    def succeed() -> WorkerProcess:
        wait_for((house.checkout / "in-hand").exists)
        house.kill(first)
        (house.checkout / "go").touch()
        return house.start("two")

    async def run() -> tuple[Answer, WorkerProcess]:
        async with requesting(house.kafka) as bus:
            asked = asyncio.create_task(
                ask(bus, Thing(key="a", number=5, note="wait"), timeout_s=90)
            )
            second = await asyncio.to_thread(succeed)
            return await asked, second

    answer, second = asyncio.run(run())
    assert answer == Answer(key="a", number=10)
    house.wait_settled(1, second)
    assert rows(second) == {"a": 1}
    assert len(replies(house)) == 1


def test_a_reply_that_left_before_its_worker_died_is_the_same_reply(house: House) -> None:
    """It leaves again, with its id, and the requester has taken the first one."""
    house.build(HANDLERS)
    first = house.start()
    (house.checkout / "die").touch()

    async def run(request_id: str) -> Answer:
        async with requesting(house.kafka) as bus:
            return await ask(bus, Thing(key="a", number=6), request_id)

    assert asyncio.run(run("order-1")) == Answer(key="a", number=12)
    first.wait_exit(30)
    house.kill(first)
    (house.checkout / "die").unlink()
    second = house.start()
    house.wait_settled(1, second)
    left = replies(house)
    assert len(left) == 2
    assert len({dict(record.headers)["ce_id"] for record in left}) == 1
    assert asyncio.run(run("order-1")) == Answer(key="a", number=12)
    assert rows(second) == {"a": 1}
    assert len(replies(house)) == 2


def test_a_sender_does_not_choose_any_topic(house: House) -> None:
    """A request that names a topic to which nobody replies is a dead letter, and holds up no other."""
    house.build(HANDLERS)
    house.make_topics(house.group + ".private.replies", house.group + ".web.replies")
    worker = house.start(KAFKA__REPLIES__ALLOWEDTOPICS=f"{house.group}.web*.replies")
    bad = [
        (house.topic, "0"),
        (house.state_topic, "0"),
        (house.group + ".private.replies", "0"),
        (house.group + ".web2.replies", "0"),
        (house.group + ".web.replies", "7"),
    ]
    asked = [*bad, (house.group + ".web.replies", "0")]

    def request(number: int, topic: str, partition: str) -> ProducerRecord:
        thing = house.thing(f"k{number}", 1)
        own = [("ce_replytopic", topic.encode()), ("ce_replypartition", partition.encode())]
        return ProducerRecord(thing.topic, thing.key, thing.value, [*thing.headers, *own])

    house.send(*(request(number, *place) for number, place in enumerate(asked)))
    house.wait_settled(len(asked), worker)
    outcomes = house.outcomes(worker)
    assert (outcomes["dead_lettered"], outcomes["handled"]) == (len(bad), 1)
    letters = house.logged(topic=f"{house.topic}.dead-letter")
    assert {dict(letter.headers)["famulus-failure"] for letter in letters} == {b"permanent"}
    assert rows(worker) == {f"k{len(bad)}": 1}
    assert not house.logged(topic=house.group + ".private.replies")
    assert len(house.logged(topic=house.group + ".web.replies")) == 1
    assert len(house.logged(topic=house.topic)) == len(asked)


def test_requesters_side_by_side_get_their_own(house: House) -> None:
    """And two that ask with one id at the same time both get the one reply."""
    house.build(HANDLERS)
    worker = house.start()

    async def run() -> None:
        async with requesting(house.kafka) as one, requesting(house.kafka) as two:
            asked = [
                (bus, Thing(key=f"{name}{n}", number=n))
                for n in range(50)
                for name, bus in (("a", one), ("b", two))
            ]
            answers = await asyncio.gather(*(ask(bus, thing) for bus, thing in asked))
            assert answers == [Answer(key=thing.key, number=2 * thing.number) for _, thing in asked]
            both = await asyncio.gather(
                *(ask(bus, Thing(key="c", number=3), "the same") for bus in (one, two))
            )
            assert both == [Answer(key="c", number=6)] * 2
            assert one.late_replies == two.late_replies == 0

    asyncio.run(run())
    assert set(rows(worker).values()) == {1}
    assert len(replies(house)) == 101


def test_a_thousand_requests_at_once(house: House) -> None:
    """As many as may be open; the next one is told so."""
    house.build(HANDLERS)
    worker = house.start()

    async def run() -> None:
        async with requesting(house.kafka, open_max=1_000) as bus:
            things = [Thing(key=f"k{number}", number=number) for number in range(1_000)]
            asked = [asyncio.create_task(ask(bus, thing, timeout_s=LIMIT_S)) for thing in things]
            await asyncio.sleep(0)
            with pytest.raises(
                TooManyRequestsError, match=re.escape("1000 requests wait for replies")
            ):
                await ask(bus, Thing(key="one more"))
            answers = await asyncio.gather(*asked)
            assert answers == [Answer(key=thing.key, number=2 * thing.number) for thing in things]

    asyncio.run(run())
    found = rows(worker)
    assert len(found) == 1_000
    assert set(found.values()) == {1}


def test_nobody_answers_while_nobody_is_there(house: House) -> None:
    """The request waits in the log: a worker that comes later handles it, and the id gets the reply."""
    house.build(HANDLERS)

    async def run(timeout_s: float) -> Answer:
        async with requesting(house.kafka) as bus:
            return await ask(bus, Thing(key="a", number=9), "order-9", timeout_s)

    with pytest.raises(RequestTimeoutError, match="ask again with its request_id"):
        asyncio.run(run(4))
    worker = house.start()
    house.wait_settled(1, worker)
    assert asyncio.run(run(LIMIT_S)) == Answer(key="a", number=18)
    assert rows(worker) == {"a": 1}


async def test_a_reply_topic_that_is_not_there_is_never_made() -> None:
    """On a broker that makes every topic that anybody asks for; and nobody goes on asking for it."""
    with Broker(config={"auto.create.topics.enable": "true"}) as broker:
        settings = KafkaConfig(bootstrap_servers=broker.bootstrap_servers)
        names = {f"evil{number}.replies" for number in range(20)}
        await create_topics(settings, {"good.replies": 2}, LIMIT_S)
        async with Producer(settings) as producer:
            connection = producer.connected()
            for name in [*names, *names]:
                with pytest.raises(UnknownTopicError):
                    await producer.check_place(name, 0)
            await producer.check_place("good.replies", 1)
            with pytest.raises(UnknownTopicError):
                await producer.check_place("good.replies", 2)
            assert not names & connection.kafka.client._topics
            await connection.kafka.client.force_metadata_update()
            there = (await connection.kafka.client.fetch_all_metadata()).topics()
        assert "good.replies" in there
        assert not names & there


async def test_missing_reply_topics_are_remembered_and_only_so_many(kafka: KafkaConfig) -> None:
    """The second request to one is refused at the first answer; one that is made meanwhile is found."""
    async with Producer(kafka) as producer:
        connection = producer.connected()
        asked: list[str] = []
        count = connection._count

        async def counted(topic: str) -> int | None:
            asked.append(topic)
            return await count(topic)

        connection._count = counted  # type: ignore[method-assign]
        topic = kafka.topic("some.replies")
        with pytest.raises(UnknownTopicError):
            await producer.check_place(topic, 0)
        assert len(asked) > 1
        asked.clear()
        with pytest.raises(UnknownTopicError):
            await producer.check_place(topic, 0)
        assert asked == [topic]
        await create_topics(kafka, {topic: 1}, LIMIT_S)
        await asyncio.sleep(0.5)  # a broker knows a new topic a moment after the cluster does
        await producer.check_place(topic, 0)
        for number in range(2 * REMEMBERED_MAX):
            connection._remember(str(number), 0.0)
        assert len(connection._missing) == REMEMBERED_MAX
