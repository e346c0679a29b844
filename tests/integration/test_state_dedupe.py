"""Recognising events that come again, on a real Kafka: for how long, by what, and without any marks."""

import signal
import time

from famulus.state.changelog import (
    MARK,
    PACK,
    PROCESSED,
    decode_processed,
    offsets_in,
    period_of,
    stored_mark,
    unpack,
)
from famulus.state.dedupe import PERIODS
from tests.support.on_kafka.house import COUNTING, MODEL, SLEEPING, House, wait_for

MINUTE = 60_000
TWO_TYPES = (
    MODEL
    + """

class Rare(Event, namespace="things.Rare", topic="things", key="key"):
    key: str
    number: int = 0
    note: str = ""
"""
)
BOTH = (
    COUNTING
    + """

@handles(Rare)
async def rare(thing: Rare) -> None:
    count[thing.key] += 1
"""
)


def test_each_type_is_remembered_for_its_window_and_then_forgotten(house: House) -> None:
    """By the events' times; marks that nobody can ask for vanish from the changelog and from the store."""
    house.build(
        BOTH,
        models=TWO_TYPES,
        options=", dedupe_window={Thing: timedelta(minutes=10), Rare: timedelta(hours=1)}",
    )
    worker = house.start(STATE__DEDUPEWINDOWS="60")
    base = time.time_ns() // 1_000_000 - 24 * 60 * MINUTE
    # Marks are forgotten by whole periods: where one begins, to know which.
    base -= base % (60 * MINUTE // PERIODS)
    sent = 0

    def send(minute: float, key: str, event_id: str) -> None:
        nonlocal sent
        kind = "things.Rare" if key == "rare" else "things.Thing"
        house.send(
            house.thing(key, at_ms=base + round(minute * MINUTE), event_id=event_id, kind=kind)
        )
        sent += 1
        house.wait_settled(sent, worker)  # a pack for each

    for minute, key, event_id in [
        (0, "usual", "x"),
        (0, "rare", "y"),
        (9, "usual", "x"),  # a duplicate
        (11, "usual", "x"),
        (11, "rare", "y"),  # the second one is a duplicate
        (59.9, "rare", "y"),  # another
        (61, "usual", "x"),
        (61, "rare", "y"),
    ]:
        send(minute, key, event_id)
    assert worker.rows("count") == {"usual": 3, "rare": 2}
    assert house.outcomes(worker)["duplicate"] == 3
    assert marks(house, base) == [0, 0, 11, 61, 61]
    for number in range(4):
        send(180, "usual", f"later-{number}")
    assert marks(house, base) == [180] * 4
    assert worker.stop() == 0
    assert len(house.stored(MARK)) == 4
    assert house.stored(PACK).keys() == house.live(PACK).keys()


def marks(house: House, base: int) -> list[int]:
    """The minutes of all marks that the changelog will keep."""
    packs = house.live(PACK)
    seen = {
        key: [stored_mark(mark).seen_ms for _, mark in unpack(value)]
        for key, value in packs.items()
    }
    assert all(period_of(key) <= min(times) for key, times in seen.items())
    return sorted((at - base) // MINUTE for times in seen.values() for at in times)


def test_an_identity_of_ones_own(house: House) -> None:
    """A field says what makes two records the same event, whatever their ids."""
    house.build(options=', identity="number"')
    worker = house.start()
    house.send(
        house.thing("a", 1, event_id="x"),
        house.thing("a", 1, event_id="y"),
        house.thing("a", 2, event_id="x"),
        house.thing("b", 2, event_id="z"),
    )
    house.wait_settled(4, worker)
    assert worker.rows("count") == {"a": 2}
    assert house.outcomes(worker)["duplicate"] == 2


def test_without_dedupe_a_kill_doubles_no_event(house: House) -> None:
    """Events that were settled ahead of one in hand are in the processed row, and not handled again."""
    noted = SLEEPING.replace(
        "    count", '    with open("ledger", "a") as f: f.write(thing.key + "\\n")\n    count'
    )
    house.build(noted, options=", dedupe=False")
    worker = house.start()
    keys = ["slow", *"abcde", "slower", *"abcde", *"xyz"]
    house.send(*(house.thing(key, 0, "wait" if key.startswith("slow") else "") for key in keys))
    ahead = [number for number, key in enumerate(keys) if not key.startswith("slow")]

    def is_settled() -> bool:
        processed = decode_processed(house.live(PROCESSED).get(PROCESSED, b'{"next_offset":0}'))
        return (
            processed.next_offset == 0
            and [o for run in offsets_in(processed) for o in range(*run)] == ahead
        )

    wait_for(is_settled)
    worker.signal(signal.SIGKILL)
    worker.stop()
    (house.checkout / "go").touch()
    worker = house.start()
    house.wait_settled(len(keys), worker)
    assert worker.rows("count") == {key: keys.count(key) for key in keys}
    assert sorted((house.checkout / "ledger").read_text().split()) == sorted(keys)
    assert house.live(PACK) == {}
