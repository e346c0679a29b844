"""Events that fail on a real Kafka: in time, over kills, with a dead letter topic that is too small, or not there."""

import asyncio
import time
from hashlib import sha256
from itertools import pairwise
from random import Random
from typing import NamedTuple

import pytest

from famulus.deadletter.record import origin_of, our_headers
from famulus.deadletter.redelivery import outgoing, returning
from famulus.kafka.admin import create_topics
from famulus.state.changelog import ATTEMPTS, DEAD
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

LEDGER = """
import os
import time
from app import Breaker, PermanentError, TransientError

ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@handles(Thing{policy})
async def note(thing: Thing, delivery: Delivery) -> None:
    os.write(ledger, f"{{thing.key}} {{thing.number}} {{delivery.attempt}} {{time.time()}}\\n".encode())
    count[thing.key] += 1
    if thing.note.startswith("never") or thing.note.startswith("at") and delivery.attempt < int(thing.note[2:]):
        raise TransientError("no")
    if thing.note.startswith("bad") and not Path("mended").exists():
        raise PermanentError("no")
"""


class Call(NamedTuple):
    """A line of the ledger: an attempt at an event."""

    key: str
    number: int
    attempt: int
    at_s: float


def handler(policy: str = "") -> str:
    """A handler that does what an event's note says, and notes that it was called."""
    return LEDGER.format(policy=policy)


def calls(house: House, key: str = "") -> list[Call]:
    """All of them, or those for a key."""
    lines = (line.split() for line in (house.checkout / "ledger").read_text().splitlines())
    every = [
        Call(name, int(number), int(attempt), float(at)) for name, number, attempt, at in lines
    ]
    return [call for call in every if key in {"", call.key}]


def letters(house: House, partition: int = 0) -> list[tuple[str, int, str, str]]:
    """The dead letters: key, offset of the event, kind, attempts."""
    found = house.logged(partition, f"{house.topic}.dead-letter")
    return [
        (
            letter.key.decode(),
            origin_of(letter.headers)[2],
            ours["famulus-failure"].decode(),
            ours["famulus-attempts"].decode(),
        )
        for letter in found
        for ours in [our_headers(letter.headers)]
    ]


def redrive(house: House, *keys: str) -> None:
    """Send the dead letters of *keys* back, in their order."""
    topic = f"{house.topic}.{house.group}.redrive"
    found = house.logged(0, f"{house.topic}.dead-letter")
    house.send(
        *(
            # A record of aiokafka's.
            outgoing(topic, returning(letter, "redrive", letter.value))  # type: ignore[arg-type]
            for letter in found
            if letter.key.decode() in keys
        )
    )


def test_events_wait_in_retry_topics(house: House) -> None:
    """Never too short, their key going on meanwhile; then they are handled, once, or dead letters of one handler."""
    house.build(handler(', retry=Retry(2, 0.1), retry_topics=["0.5s", "1s"]'))
    worker = house.start()
    house.send(
        house.thing("a", 1, "at3"),
        house.thing("b", 1, "at4"),
        house.thing("c", 1, "never"),
        house.thing("c", 2),
        *(house.thing(f"k{number}", number) for number in range(100)),
    )
    house.wait_settled(104, worker, timeout_s=3)
    wait_for(lambda: bool(letters(house)))
    wait_for(lambda: worker.rows("count").get("b") == 1)
    assert letters(house) == [("c", 2, "exhausted", "4")]
    for key, attempts in (("a", 3), ("b", 4), ("c", 4)):
        of_key = [call for call in calls(house, key) if call.number == 1]
        assert [call.attempt for call in of_key] == list(range(1, attempts + 1))
        waits = [after.at_s - before.at_s for before, after in pairwise(of_key)]
        assert all(
            least <= wait < least + 0.6 for wait, least in zip(waits, (0.1, 0.5, 1.0), strict=False)
        ), waits
    [later] = [call for call in calls(house, "c") if call.number == 2]
    assert later.at_s < [call.at_s for call in calls(house, "c") if call.number == 1][2]
    assert worker.rows("count") == {
        **{f"k{number}": 1 for number in range(100)},
        "a": 1,
        "b": 1,
        "c": 1,
    }
    outcomes = house.outcomes(worker)
    assert (outcomes["postponed"], outcomes["retried"], outcomes["dead_lettered"]) == (
        1 + 2 + 2,
        3,
        1,
    )
    assert worker.stop() == 0
    assert house.live(ATTEMPTS) == {}


def test_a_kill_takes_no_attempt_and_no_order_away(house: House) -> None:
    """Attempts count on, what was parked stays parked, and comes back in its order; whatever was killed when."""
    house.build(handler(", retry=Retry(3, 1.5, 1.0)"), options=', on_dead_letter="sequence"')
    worker = house.start()
    house.send(
        house.thing("k", 0, "bad"),
        house.thing("k", 1),
        house.thing("back", 0, "never"),
        house.thing("other", 0),
    )
    wait_for(lambda: len(house.live(ATTEMPTS)) == 1 and len(house.live(DEAD)) == 2)
    house.kill(worker)
    house.send(house.thing("k", 2), house.thing("other", 1))
    worker = house.start()
    house.wait_settled(6, worker)
    assert [call.attempt for call in calls(house, "back")] == [1, 2, 3]
    assert letters(house) == [
        ("k", 0, "permanent", "1"),
        ("k", 1, "parked", "0"),
        ("k", 4, "parked", "0"),
        ("back", 2, "exhausted", "3"),
    ]
    assert worker.rows("count") == {"other": 2}
    assert house.live(ATTEMPTS) == {}

    (house.checkout / "mended").touch()
    redrive(house, "k")
    redrive(house, "k")  # twice is once
    wait_for(lambda: worker.rows("count").get("k") == 3)
    wait_for(lambda: house.outcomes(worker)["duplicate"] == 3)
    house.kill(worker)
    worker = house.start()
    house.send(house.thing("k", 3))
    house.wait_settled(7, worker)
    assert [call.number for call in calls(house, "k")] == [0, 0, 1, 2, 3]
    assert worker.rows("count") == {"other": 2, "k": 4}
    assert [len(house.live(DEAD)), len(letters(house))] == [1, 4]  # that of `back`


def test_what_waits_goes_along_with_its_partition(house: House) -> None:
    """When another worker joins and when one is killed: each event has its attempts, and counts once."""
    house.build(
        handler(', retry=Retry(1), retry_topics=["1s", "2s"], breaker=Breaker(failures=0)'),
        partitions=4,
    )
    one = house.start("one")
    house.send(*(house.thing(f"k{number}", 1, "at3", partition=number % 4) for number in range(40)))
    wait_for(lambda: house.outcomes(one)["postponed"] >= 40)
    two = house.start("two", ready=2)
    one.wait_ready(partitions=2)
    house.send(*(house.thing(f"l{number}", 1, "at3", partition=number % 4) for number in range(40)))
    wait_for(lambda: house.outcomes(two)["postponed"] >= 20)
    house.kill(two)
    everything = {f"{letter}{number}": 1 for letter in "kl" for number in range(40)}
    wait_for(lambda: one.rows("count") == everything)
    assert letters(house) == []
    for key in everything:
        made = [call.attempt for call in calls(house, key)]
        assert (set(made), len(made) <= 4) == ({1, 2, 3}, True), (key, made)


def test_a_partition_that_halts_says_so_and_the_others_go_on(house: House) -> None:
    """Nothing of it is lost: with a mended handler it goes on where it stands."""
    house.build(handler(), options=', on_dead_letter="halt"', partitions=2)
    worker = house.start()
    house.send(house.thing("a", 0, partition=0), house.thing("b", 0, partition=1))
    house.wait_settled(2, worker)
    house.send(
        house.thing("x", 1, "bad", partition=0),
        *(house.thing("a", n, partition=0) for n in range(2, 20)),
    )
    line = house.wait_log(worker, "failed for good")
    house.send(*(house.thing("b", number, partition=1) for number in range(1, 20)))
    wait_for(lambda: worker.rows("count").get("b") == 20)
    status, answer = worker.answer("/readyz")
    assert status == 503
    assert f"{house.topic}-0 offset 1 failed for good (permanent, PermanentError)" in answer["why"]
    assert answer["why"] in line
    assert worker.get("/subscriptions/")[0]["next_offsets"] == {"0": 1, "1": 20}
    assert worker.stop() == 0
    assert house.committed() == {0: 1, 1: 20}
    assert letters(house) == []
    (house.checkout / "mended").touch()
    worker = house.start()
    house.wait_settled(20 + 20, worker)
    assert worker.rows("count") == {"a": 19, "b": 20, "x": 1}
    assert len(calls(house, "x")) == 2


def test_a_dead_letter_topic_that_is_gone_stops_its_partition(house: House) -> None:
    """Nothing is lost: when it is there again, the letter leaves and everything behind it counts."""
    house.build(handler(), partitions=2)
    dead_letters = f"{house.topic}.dead-letter"
    worker = house.start(KAFKA__PRODUCERCONFIG__DELIVERYTIMEOUTMS="2000")
    house.send(house.thing("a", 0, "bad", partition=0), house.thing("b", 0, partition=1))
    house.wait_settled(2, worker)
    house.delete_topic(dead_letters)
    house.send(
        house.thing("x", 1, "bad", partition=0),
        *(house.thing("a", n, partition=0) for n in range(1, 20)),
    )
    house.wait_log(worker, "nothing of the partition is settled until this is sent")
    for number in range(1, 11):
        house.send(house.thing("b", number, partition=1))
        time.sleep(0.5)
    wait_for(lambda: worker.rows("count") == {"b": 11})
    status, answer = worker.answer("/readyz")
    assert (status, f"Kafka does not take records for {dead_letters}" in answer["why"]) == (
        503,
        True,
    )
    assert worker.get("/subscriptions/")[0]["next_offsets"] == {"0": 1, "1": 11}
    house.make_topics(dead_letters)
    house.wait_settled(21 + 11, worker)
    assert worker.rows("count") == {"a": 19, "b": 11}
    assert {(key, offset) for key, offset, *_ in letters(house)} == {("x", 1)}
    wait_for(lambda: worker.answer("/readyz")[0] == 200)
    assert worker.stop() == 0


@pytest.mark.parametrize("policy", ["", ', retry=Retry(1), retry_topics=["0.5s"]'])
def test_a_letter_that_is_too_large_says_where_its_value_is(house: House, policy: str) -> None:
    """The digest of the value stands for it, and its place; those that fit are whole, those around them count."""
    later = f"{house.topic}.{house.group}.retry-1"
    small = dict.fromkeys([f"{house.topic}.dead-letter", later], 1)
    asyncio.run(create_topics(house.kafka, small, LIMIT_S, {"max.message.bytes": "10000"}))
    house.build(handler(policy))
    worker = house.start()
    what = "never" if policy else "bad"
    large = house.thing("large", 1, what + Random(1).randbytes(50_000).hex())
    house.send(house.thing("a", 0, what), large, house.thing("b", 2, what))
    house.send(*(house.thing("c", number) for number in range(20)))
    house.wait_settled(23, worker)
    wait_for(lambda: len(letters(house)) == 3)
    found = {letter.key: letter for letter in house.logged(0, f"{house.topic}.dead-letter")}
    assert found[b"a"].value == house.thing("a", 0, what).value
    letter = found[b"large"]
    headers = our_headers(letter.headers)
    assert (letter.value, origin_of(letter.headers)) == (None, (house.topic, 0, 1))
    assert headers["famulus-value-sha256"].decode() == sha256(large.value or b"").hexdigest()
    assert headers["famulus-value-bytes"] == b"%d" % len(large.value or b"")
    assert (headers["famulus-handler"], "famulus-scope" in headers) == (
        b"agents.things.note",
        bool(policy),
    )
    assert worker.rows("count") == {"c": 20}
    assert len(house.logged(0, later)) == (2 if policy else 0)
    assert worker.exit_code() is None
