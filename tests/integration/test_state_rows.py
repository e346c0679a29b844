"""Rows on a real Kafka: too large ones, many at once, and one that events of many keys want."""

from famulus.deadletter.record import origin_of
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

LARGE = """
notes = things.Table("notes", key=str, value=str)


@handles(Thing)
async def note(thing: Thing) -> None:
    count[thing.key] += 1
    notes[thing.key] = "x" * thing.number
"""


def test_an_event_whose_effects_are_too_large_is_set_aside(house: House) -> None:
    """Alone, and with the reason; what it wrote beside the large row is forgotten too."""
    house.build(LARGE)
    worker = house.start()
    house.send(
        house.thing("before", 10),
        house.thing("large", 1_000_000),
        house.thing("large", 20),
        house.thing("after", 10),
    )
    house.wait_settled(4, worker, timeout_s=LIMIT_S)
    assert worker.rows("count") == {"before": 1, "large": 1, "after": 1}
    assert worker.get("/tables/notes/large/")["value"] == "x" * 20
    assert house.outcomes(worker)["dead_lettered"] == 1
    [letter] = house.logged(topic=f"{house.topic}.dead-letter")
    headers = dict(letter.headers)
    assert (
        headers["__streams.errors.exception"] == b"famulus.state.unit_of_work.EffectsTooLargeError"
    )
    assert headers["__streams.errors.message"].startswith(b"its effects on tables take 1000")
    assert b"at most 700000 are settled at once" in headers["__streams.errors.message"]
    assert origin_of(letter.headers) == (house.topic, 0, 1)


def test_many_rows_of_some_size_are_split_between_events(house: House) -> None:
    """Each group stays within what a record batch takes, however much came together, and none waits for ever."""
    house.build(LARGE)
    worker = house.start()
    house.send(*(house.thing(f"key-{number:02}", 100_000 + number) for number in range(40)))
    house.wait_settled(40, worker)
    notes = worker.rows("notes")
    assert {key: len(value) for key, value in notes.items()} == {
        f"key-{n:02}": 100_000 + n for n in range(40)
    }
    assert house.outcomes(worker)["handled"] == 40


SHARED = """
@handles(Thing)
async def note(thing: Thing) -> None:
    if thing.note == "own":
        count[thing.key] += 1
        return
    shared = count["shared"]
    await asyncio.sleep(0.005)
    while thing.note == "hold" and not Path("go").exists():
        await asyncio.sleep(0.02)
    count["shared"] = shared + 1
    count[thing.key] += 1
"""


def test_no_update_of_a_shared_row_is_lost(house: House) -> None:
    """Events of many keys read it, wait, and write it: all count.

    Those that want other rows are not held back.
    """
    house.build(SHARED)
    worker = house.start()
    house.send(
        house.thing("holder", 0, "hold"),
        *(house.thing(f"key-{number % 50}", number) for number in range(200)),
        *(house.thing(f"own-{number}", number, "own") for number in range(30)),
    )
    own = {f"own-{number}": 1 for number in range(30)}
    wait_for(lambda: worker.rows("count") == own)
    (house.checkout / "go").touch()
    house.wait_settled(231, worker)
    keys = {f"key-{number}": 4 for number in range(50)}
    assert worker.rows("count") == {"shared": 201, "holder": 1, **keys, **own}
    assert house.outcomes(worker)["retried"] == 0
