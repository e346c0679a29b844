"""Workers that are killed around a dead letter, at each step of its way: nothing is lost, nothing counts twice.

`KILL_ROUNDS` says how often at each step (1; a campaign has 20).
"""

import os
from collections import Counter, defaultdict

import pytest

from famulus.deadletter.record import origin_of, our_headers
from famulus.state.changelog import ATTEMPTS
from tests.support.on_kafka.house import House, processed, wait_for

ROUNDS = int(os.environ.get("KILL_ROUNDS", "1"))
STEPS = [
    "publishing",
    "published",
    "sending",
    "sent",
    "acknowledged",
    "written",
    "before the commit",
    "after the commit",
]
DYING = """
import os
import signal
from app import PermanentError, TransientError
from famulus.consumer import transport

published = written = 0
commit = transport.Consumer._commit


def die(step):
    global published, written
    if not Path("step").exists():
        published = written = 0
        return
    published += step == "publishing"
    written += step == "written" and published > 0
    wanted, after = Path("step").read_text().split(",")
    if step == wanted and published >= int(after):
        Path("step").unlink()
        os.kill(os.getpid(), signal.SIGKILL)


async def dying(self, offsets):
    if written:
        die("before the commit")
    committed = await commit(self, offsets)
    if written:
        die("after the commit")
    return committed


app.probe = die
transport.Consumer._commit = dying


@handles(Thing)
async def before(thing: Thing) -> None:
    count[thing.key] += 1


@handles(Thing, retry=Retry(2, 0.05), retry_topics=["0.3s"])
async def note(thing: Thing, delivery: Delivery) -> None:
    with open("ledger", "a") as f:
        f.write(f"{thing.key} {thing.number} {delivery.attempt}\\n")
    count["noted " + thing.key] += 1
    if thing.note == "bad":
        raise PermanentError("no")
    if thing.note == "never" or (thing.note == "late" and delivery.attempt < 3):
        raise TransientError("no")
"""


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_a_kill_at_any_step_of_a_dead_letter_loses_nothing(house: House) -> None:
    """A letter may stand twice, with one origin.

    What waits in a retry topic is handled, once, or a letter too.
    """
    house.build(DYING)
    worker, sent, late = house.start(), 0, 0
    for number, step in enumerate(STEPS * ROUNDS):
        # At a letter, a wait, another letter.
        # At once: the worker reads it meanwhile.
        (house.checkout / "next").write_text(f"{step},{1 + number % 3}")
        (house.checkout / "next").rename(house.checkout / "step")
        house.send(
            house.thing("a", number),
            house.thing("b", number, "bad"),
            house.thing("c", number, "never"),
            house.thing("d", number, "late"),
            *(house.thing(f"k{key}", number) for key in range(20)),
        )
        sent, late = sent + 24, late + 1
        assert worker.wait_exit(20) == -9, step
        house.kill(worker)
        worker = house.start()
        wait_for(lambda: processed(worker) == sent)  # it is awaited here
    everything = {"a": late, "c": late, "d": late, **{f"k{key}": late for key in range(20)}}
    noted = {f"noted {key}": number for key, number in everything.items() if key != "c"}
    wait_for(
        lambda: (
            worker.rows("count") == everything | noted
            and len(set(origins(house, "exhausted"))) == late
        )
    )
    check(house, late)
    assert worker.stop() == 0
    assert house.live(ATTEMPTS) == {}


def origins(house: House, kind: str) -> list[int]:
    """The offsets of the events whose dead letters are of a kind."""
    found = house.logged(0, f"{house.topic}.dead-letter")
    return [
        origin_of(letter.headers)[2]
        for letter in found
        if our_headers(letter.headers)["famulus-failure"].decode() == kind
    ]


def check(house: House, rounds: int) -> None:
    """Each event that failed for good is a letter, twice at most for each kill; none has more attempts than it may."""
    for place, kind in ((1, "permanent"), (2, "exhausted")):
        found = Counter(origins(house, kind))
        assert found.keys() == {24 * number + place for number in range(rounds)}
        assert max(found.values()) <= 2, found
        twice = sum(found.values()) - rounds
        print(f"{kind}: {rounds} letters, {twice} of them twice")
    attempts: dict[tuple[str, str], list[int]] = defaultdict(list)
    for line in (house.checkout / "ledger").read_text().splitlines():
        key, number, attempt = line.split()
        attempts[key, number].append(int(attempt))
    for (key, number), made in attempts.items():
        most = {"c": 3, "d": 3}.get(key, 1)
        assert set(made) == set(range(1, most + 1)), (key, number, made)
        # What was in hand when it was killed is done again.
        assert len(made) <= most + 2, (key, number, made)
