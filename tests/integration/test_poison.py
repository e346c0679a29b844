"""Poison on a real Kafka: whatever bytes come, they are set aside unchanged, and everything else is handled."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from famulus.deadletter.record import origin_of, our_headers, sender_headers
from famulus.producer.results import Published
from famulus.serialization.records import ProducerRecord
from tests.support.on_kafka.house import COUNTING, MODEL, House

CORPUS = [
    path.read_bytes()
    for path in sorted((Path(__file__).parents[1] / "corpus").iterdir())
    if path.suffix
]
GENERATED, GOOD, PARTITIONS = 10_000, 2_000, 2
DEPTH, LENGTH = 100_000, 1_000_000
THING = b"things.Thing"
LISTING = """
seen = things.Table("seen", key=str, value=str, default=str)


@handles(Thing)
async def note(thing: Thing) -> None:
    seen[thing.key] += f"{thing.number},"
"""
LARGE = [
    b'{"key":"k","other":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
    b'{"key":"k","other":' + b'{"a":' * DEPTH + b"1" + b"}" * DEPTH + b"}",
    b"[" * DEPTH,
    b'{"key":"' + b"x" * LENGTH + b'","number":""}',
    b'{"key":"k","number":"' + b"\xc3\xa9" * (LENGTH // 2) + b'"}',
    bytes(LENGTH),
]


def poison(random: Random) -> Iterator[bytes | None]:
    """Values that are no event, without end: broken bytes, broken JSON, JSON of something else."""
    while True:
        good = json.dumps({"key": "key", "number": random.randint(-9, 9), "note": "é" * 9}).encode()
        at = random.randrange(1, len(good))
        other = random.choice(
            ["1", "null", "[]", "{}", "true", "1.5", "NaN", "-Infinity", "01", "'k'", "undefined"]
        )
        yield from (
            None,
            random.randbytes(random.randint(0, 300)) + b"\xff",
            good[:at],
            good[at:],
            good + bytes([random.choice(b'x}]",\0\xff')]),
            good[:9] + bytes([random.choice(b"\xc3\xe2\xff\x80\x00\x1f")]) + good[9:],
            b'{"key":%s}' % other.encode(),
            b'{"key":"k","number":%s}'
            % random.choice(['""', "[1]", "1.5", "1e400", "NaN", "true", "0x1"]).encode(),
            b'{"number":1}',
            other.encode(),
            b'{"key":' + b"[" * (depth := random.randint(1, 2_000)) + b"]" * depth + b"}",
            random.choice(
                [
                    good.decode().encode("utf-16"),
                    good.decode().encode("utf-32"),
                    b"\xef\xbb\xbf" + good,
                ]
            ),
        )


def sent(house: House, random: Random) -> tuple[list[ProducerRecord], list[ProducerRecord]]:
    """What is sent, and what of it is poison: mixed, with the keys of good events, without keys, with odd headers."""
    making = poison(random)
    values = [*CORPUS, *LARGE, *(next(making) for _ in range(GENERATED))]
    headers = [
        [],
        [("trace", b"\0\xff")],
        [("ce_id", b"\xff\xfe"), ("ce_id", b""), ("", b"")],
        [("famulus-action", b"redrive")],
        [("original-topic", b"t"), ("original-offset", b"\xff")],
        [("ce_type", b"things.Thing"), ("ce_id", b"1")],
    ]
    keys = [None, b"", b"\xff\0", b"k0", b"k1", b"k" * 1000]
    bad = [
        ProducerRecord(
            house.topic,
            random.choice(keys),
            value,
            random.choice(headers),
            random.randrange(PARTITIONS),
        )
        for value in values
    ]
    good = [house.thing(f"k{n % 10}", n, partition=n % PARTITIONS) for n in range(GOOD)]
    everything = [*bad, *good]
    random.shuffle(everything)
    return everything, bad


def test_poison_is_set_aside_unchanged_and_stops_nobody(house: House) -> None:
    """Each record of it once, byte for byte, with its headers; every good event beside it counts; no process ends."""
    house.build(COUNTING, partitions=PARTITIONS)
    worker = house.start(DEADLETTER__FLOODRUN="10")
    everything, bad = sent(house, Random(7))
    places = house.send(*everything)
    house.wait_settled(len(everything), worker, timeout_s=60)
    assert worker.exit_code() is None
    assert worker.answer("/readyz")[0] == 200
    assert sum(worker.rows("count").values()) == GOOD
    outcomes = house.outcomes(worker)
    assert (outcomes["handled"], outcomes["dead_lettered"], outcomes["retried"]) == (
        GOOD,
        len(bad),
        0,
    )
    assert found(house) == wanted(everything, places, bad)
    assert worker.stop() == 0
    text = worker.log.read_text("utf-8", "replace")
    assert "Traceback" not in text
    assert text.count("dead letter") == len(bad)


Letters = Counter[tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]]


def found(house: House) -> Letters:
    """The dead letters: where each came from, and what it is without our headers."""
    letters: Letters = Counter()
    for partition in range(PARTITIONS):
        for letter in house.logged(partition, f"{house.topic}.dead-letter"):
            topic, at, offset = origin_of(letter.headers)
            assert (topic, at) == (house.topic, partition)
            assert our_headers(letter.headers)["famulus-failure"] == b"poison"
            letters[
                at, offset, letter.key, letter.value, tuple(sender_headers(letter.headers))
            ] += 1
    return letters


def wanted(
    everything: list[ProducerRecord], places: list[Published], bad: list[ProducerRecord]
) -> Letters:
    """The poison, and where it stands."""
    is_bad = {id(record) for record in bad}
    return Counter(
        (place.partition, place.offset, record.key, record.value, tuple(record.headers))
        for record, place in zip(everything, places, strict=True)
        if id(record) in is_bad
    )


def test_a_producer_that_changed_stops_its_partition_until_a_version_reads_it(house: House) -> None:
    """Few dead letters instead of a topic of them, in words; the next version handles the others in their order."""
    house.build(LISTING)
    first = house.start(DEADLETTER__POISONRUN="5")
    changed = [
        ProducerRecord(
            house.topic,
            b"k",
            b'{"key":"k","number":"%d"}' % n,
            [("ce_id", b"c%d" % n), ("ce_type", THING)],
        )
        for n in range(50)
    ]
    house.send(*(house.thing("good", n) for n in range(3)), *changed)
    said = house.wait_log(first, "DeadLetter.PoisonRun 0")
    assert "5 of the last 5 failed, the last one with DecodeError" in said
    status, answer = first.answer("/readyz")
    assert (status, "as if a producer had changed" in str(answer)) == (503, True)
    assert first.stop() == 0
    assert len(house.logged(0, f"{house.topic}.dead-letter")) == 4
    (house.checkout / "models/things.py").write_text(
        MODEL.replace("number: int = 0", "number: int | str = 0")
    )
    second = house.start(DEADLETTER__POISONRUN="5")
    house.wait_settled(53, second)
    assert second.answer("/readyz")[0] == 200
    assert second.rows("seen") == {"good": "0,1,2,", "k": "".join(f"{n}," for n in range(4, 50))}
    assert len(house.logged(0, f"{house.topic}.dead-letter")) == 4
