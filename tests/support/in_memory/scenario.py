"""Random programs for handlers, random faults for their workers, and a model of what must come out.

An event carries a program of words:

    add:ROW:N    read a row, write it with N more           slow:ROW:N   the same with a pause between
    move:A:B:N   N from one row to another, with a pause    check:A:B    that two rows add up to nothing, with a pause
    pause        let others go on                           publish      an event that says this one's id
"""

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

from famulus import Event
from famulus.serialization.json_codec import codec_of
from tests.support.in_memory.log import Sending

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
ATTEMPTS = 3
ROWS, PAIRS, LANES = "abc", ("x:y", "v:w"), "klmn"


class Deed(Event, namespace="test.Deed", topic="t", key="lane"):
    """An event whose handlers do what it says. Its two handlers fail so many times first."""

    name: str
    lane: str
    program: str
    fails: int
    fails_late: int


@dataclass(frozen=True)
class Plan:
    """What happens to one worker: at its *end_at*-th step it dies, or another one takes over while it goes on.

    *disk*: which one it has. *end_at* 0: it works until all is done.
    """

    end_at: int = 0
    is_replaced: bool = False
    disk: int = 0
    sendings: tuple[Sending, ...] = ()
    is_lost_at_death: bool = False


@dataclass
class Scenario:
    """Records of the source, and the workers that have it one after the other, the last one undisturbed."""

    records: list[Any]
    plans: list[Plan]
    window_ms: int
    remembers: bool
    group_bytes: int
    chunk: int
    deeds: dict[str, Deed] = field(default_factory=dict)


def scenario(random: Random, *, remembers: bool = True) -> Scenario:
    """A random one."""
    is_short = remembers and random.random() < 0.3  # the dedupe window
    records: list[Any] = []
    deeds: dict[str, Deed] = {}
    at_ms = NOW_MS
    for offset in range(random.randint(1, 24)):
        at_ms += (
            random.choice([0, 1, 5, 400, 1000, 1100]) if is_short else random.choice([0, 1, -3])
        )
        if deeds and random.random() < 0.3:
            deed = deeds[random.choice(list(deeds))]
        else:
            deed = _deed(random, f"e{len(deeds)}")
            deeds[deed.name] = deed
        lane = random.choice(LANES) if not is_short and random.random() < 0.15 else deed.lane
        records.append(
            SimpleNamespace(
                topic="t",
                partition=0,
                offset=offset,
                timestamp=at_ms,
                key=lane.encode(),
                value=codec_of(Deed).encode(deed),
                headers=[("ce_id", deed.name.encode())],
            )
        )
    plans = [*(_plan(random) for _ in range(random.randint(0, 4))), Plan(disk=random.randint(0, 2))]
    window_ms = 1000 if is_short else 7 * DAY_MS
    return Scenario(
        records,
        plans,
        window_ms,
        remembers,
        random.choice([700, 2000]),
        random.choice([1, 3, 50]),
        deeds,
    )


def _deed(random: Random, name: str) -> Deed:
    words = [_word(random) for _ in range(random.randint(0, 4))]
    fails = [
        random.choice([0, 0, 0, 1, ATTEMPTS]) if random.random() < 0.5 else 0 for _ in range(2)
    ]
    return Deed(
        name=name,
        lane=random.choice(LANES),
        program=" ".join(words),
        fails=fails[0],
        fails_late=fails[1],
    )


def _word(random: Random) -> str:
    what = random.choice(["add", "slow", "slow", "move", "check", "pause", "publish"])
    if what in {"add", "slow"}:
        return f"{what}:{random.choice(ROWS)}:{random.randint(1, 9)}"
    if what == "move":
        return f"move:{random.choice(PAIRS)}:{random.randint(1, 9)}"
    return f"check:{random.choice(PAIRS)}" if what == "check" else what


def _plan(random: Random) -> Plan:
    sendings = tuple(_sending(random) for _ in range(random.randint(0, 4)))
    return Plan(
        random.randint(1, 40),
        random.random() < 0.4,
        random.randint(0, 2),
        sendings,
        random.random() < 0.5,
    )


def _sending(random: Random) -> Sending:
    before, after = random.choice([0, 0, 1, 5, 60]), random.choice([0, 0, 1, 5])
    fails = random.choice(["", "", "", "", "before", "after", "late"])
    return Sending(before + 10 if fails == "late" else before, after, fails)


@dataclass
class Expected:
    """What must come out: numbers by row, each lane's events, what was published and what was buried."""

    sums: Counter[str] = field(default_factory=Counter)
    trail: dict[str, list[str]] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    buried: set[str] = field(default_factory=set)


def expected(of: Scenario) -> Expected:
    """The fold of the source, an event once within the window of stream time."""
    found, marks, stream_ms = Expected(), dict[str, int](), 0
    for record in of.records:
        stream_ms = max(stream_ms, record.timestamp)
        name = record.headers[0][1].decode()
        deed = of.deeds[name]
        if of.remembers and name in marks and stream_ms - marks[name] < of.window_ms:
            continue
        if max(deed.fails, deed.fails_late) >= ATTEMPTS:
            found.buried.add(name)
            continue
        marks[name] = stream_ms
        found.trail.setdefault(deed.lane, []).append(name)
        for word in deed.program.split():
            what, *rest = word.split(":")
            if what in {"add", "slow"}:
                found.sums[rest[0]] += int(rest[1])
            elif what == "move":
                found.sums[rest[0]] -= int(rest[2])
                found.sums[rest[1]] += int(rest[2])
            elif what == "publish":
                found.published.add(name)
    return found
