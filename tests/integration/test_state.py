"""State on a real Kafka: what a restart, an empty folder and another worker find again."""

import shutil

import pytest

from tests.integration.house import COUNTING, House

KEYS = 7
EVENTS = 60
EXPECTED = {f"key-{key}": len(range(key, EVENTS, KEYS)) for key in range(KEYS)}
EXPLAINING = (
    COUNTING
    + """

@app.page("/explained/")
async def explained(view, request):
    return view.json([d._asdict() for d in things.counts.duplicates])
"""
)


@pytest.mark.parametrize("how", ["warm", "cold", "moved"])
def test_a_restart_finds_tables_and_marks(house: House, how: str) -> None:
    """From the store, from the changelog alone, and on another worker: rows are there, duplicates are explained."""
    house.build(EXPLAINING, partitions=2)
    sent = [house.thing(f"key-{number % KEYS}", number) for number in range(EVENTS)]
    worker = house.start()
    house.send(*sent)
    house.wait_settled(EVENTS, worker)
    assert worker.rows("count") == EXPECTED
    assert worker.stop() == 0
    if how == "cold":
        shutil.rmtree(house.folder / "one")

    again = house.start("two" if how == "moved" else "one")
    assert again.rows("count") == EXPECTED
    restored = int(house.wait_log(again, "restored").split("records=")[1].split()[0])
    logged = sum(len(house.logged(partition)) for partition in range(2))
    assert restored < 10 if how == "warm" else restored == logged, (restored, logged)
    house.send(*sent[:20], house.thing("key-0", EVENTS))
    house.wait_settled(EVENTS + 21, again)
    assert again.rows("count") == {**EXPECTED, "key-0": EXPECTED["key-0"] + 1}
    assert (house.outcomes(again)["duplicate"], house.outcomes(again)["handled"]) == (20, 1)
    explained = again.get("/explained/")
    assert {entry["event_id"] for entry in explained} == {f"test#key-{n % KEYS}-{n}" for n in range(20)}
    assert all(entry["first_offset"] < entry["offset"] and entry["first_seen_ms"] > 0 for entry in explained)
