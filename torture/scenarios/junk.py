"""Records that nobody of the group wrote, in each of the topics that are the group's own, and in the source.

None of them is what it could be: what says where a record comes from, when it is due, who owns a
partition is broken.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from famulus.serialization.records import ProducerRecord
from torture import topics
from torture.faults import Fault, Hit, always, next_slot
from torture.stage import Stage

SETTINGS = {"TORTURE_DETOURS": "1", "KAFKA__SCHEDULEMAXH": "1"}
DEEP = 100_000
HUGE = b"9" * 400
DAY_MS = 86_400_000
TEXTS = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b'""',
    b"-1",
    b"NaN",
    HUGE,
    b"\xff\xfe\xfd",
    b"\xed\xa0\x80",
    b"\0" * 8,
    b"{" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"epoch":' + HUGE + b"}",
    b"'; DROP TABLE --",
    b'{"next_offset":-1}',
    b'{"action":"pause"',
    b"\x1b[2J\x07",
    "Zoë \u202e".encode(),
)
NUMBERS = HUGE, b"", b"-1", b"1e9", b"nan", b"\xff", b"12 34", b"0x10", b"9" * 5_000
Headers = list[tuple[str, bytes]]


def _any(chance: random.Random) -> bytes:
    return chance.choice((*TEXTS, chance.randbytes(chance.choice((1, 3, 8, 200)))))


def _changelog(chance: random.Random) -> tuple[bytes, Headers]:
    """A row, a pack, a claim or no such thing, by an owner whose number is none."""
    key = chance.choice(
        (
            b"\0processed",
            b"\0claim",
            b"\0reset",
            b"tcounts\0a",
            b"p" * 25,
            b"a" * 9,
            b"d" * 3,
            _any(chance),
        )
    )
    return key, [
        ("epoch", chance.choice((b"", b"abc", b"9" * 9, (-1).to_bytes(8, "big", signed=True))))
    ]


def _back(chance: random.Random) -> tuple[bytes, Headers]:
    """A record that comes back from nowhere, or at no time."""
    headers = {
        "original-topic": b"junk.payments",
        "original-partition": (0).to_bytes(4, "little"),
        "original-offset": (0).to_bytes(8, "little"),
        "famulus-action": chance.choice((b"retry", b"redrive", b"drop")),
        "famulus-hops": b"0",
        "famulus-timestamp": b"0",
        "famulus-stage": b"1",
        "famulus-due": b"%d" % 10**18,
        "famulus-attempts": b"1",
        "famulus-first": b"0",
    }
    numbers = (
        "famulus-hops",
        "famulus-timestamp",
        "famulus-stage",
        "famulus-due",
        "famulus-attempts",
        "famulus-first",
    )
    headers[chance.choice(numbers)] = chance.choice(NUMBERS)
    headers[chance.choice(("original-topic", "original-partition", "original-offset"))] = (
        chance.randbytes(3)
    )
    return _any(chance), list(headers.items())


def _scheduled(chance: random.Random) -> tuple[bytes, Headers]:
    """An event for a topic or a time that there is not."""
    topic, number = (
        chance.choice((b"", b"\xff", b"x" * 300, b"no such topic")),
        chance.choice(NUMBERS),
    )
    names = "famulus-schedule-topic", "famulus-schedule-due", "famulus-schedule-until"
    return _any(chance), list(zip(names, (topic, number, chance.choice(NUMBERS)), strict=True))


def _plain(chance: random.Random) -> tuple[bytes, Headers]:
    """Anything, with headers that say anything."""
    names = (
        "ce_id",
        "ce_type",
        "ce_time",
        "famulus-failure",
        "famulus-hops",
        "content-type",
        "original-offset",
        "x",
    )
    return _any(chance), [(chance.choice(names), _any(chance)) for _ in range(chance.randrange(4))]


OWN: Mapping[str, tuple[str, Callable[[random.Random], tuple[bytes, Headers]]]] = {
    "the changelog": ("{group}-payments-state", _changelog),
    "the admin topic": ("{group}.admin", _plain),
    "the admin topic's audit": ("{group}.admin.audit", _plain),
    "a retry topic": ("{topic}.{group}.retry-1", _back),
    "the redrive topic": ("{topic}.{group}.redrive", _back),
    "the topic of scheduled events": ("{group}.scheduled", _scheduled),
    "the topic of replies": ("{group}.replies", _plain),
    "the dead letter topic": ("{topic}.dead-letter", _plain),
    "the dead letters' audit": ("{topic}.dead-letter.audit", _plain),
}


@contextmanager
def prepared(stage: Stage) -> Iterator[None]:
    """Make the topics that are made with their first use, and have the group's progress in all others looked at."""
    made = "{group}.replies", "{topic}.dead-letter.audit"
    topics.make(stage.kafka, {_named(stage, name): 1 for name in made})
    stage.feed.others = [
        _named(stage, name) for name in ("{topic}.{group}.retry-1", "{topic}.{group}.redrive")
    ]
    yield


def _named(stage: Stage, name: str) -> str:
    return name.format(group=stage.leg.name, topic=stage.topic)


def _write(stage: Stage, where: str) -> None:
    name, fuzzed = OWN[where]
    key, headers = fuzzed(stage.chance)
    value = stage.chance.choice((None, _any(stage.chance)))
    time_ms = stage.chance.choice((None, 0, 1, topics.now_ms() - 30 * DAY_MS))
    topics.write(
        stage.kafka,
        [ProducerRecord(_named(stage, name), key, value, headers, timestamp_ms=time_ms)],
    )


def _junk(where: str) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        _write(stage, where)
        yield always

    return Fault(f"junk in {where}", hurting, 0.1)


@contextmanager
def _at_a_start(stage: Stage) -> Iterator[Hit]:
    """Have a worker start on junk in all of them, and a person look at them."""
    slot = next_slot(stage)
    stage.kill(slot)
    for where in OWN:
        _write(stage, where)
    stage.restart(slot)
    for command in (("dlq", "list"), ("paused",), ("state", "export")):
        stage.order(*command)
    yield lambda: bool(stage.owned(slot))


FAULTS = (
    *(_junk(where) for where in OWN),
    Fault("junk in every own topic at a start", _at_a_start, 0.5, at_most=2),
)
