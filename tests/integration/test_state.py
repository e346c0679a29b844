"""State on a real Kafka: what a restart, an empty folder and another worker find again."""

import shutil

from tests.support.on_kafka.house import COUNTING, House, wait_for

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


def test_a_restart_finds_tables_and_marks(house: House) -> None:
    """From the store, from the changelog alone, and on another worker: rows are there, duplicates are explained."""
    house.build(EXPLAINING, partitions=2)
    sent = [house.thing(f"key-{number % KEYS}", number) for number in range(EVENTS)]
    worker = house.start()
    house.send(*sent)
    settled = EVENTS
    house.wait_settled(settled, worker)
    expected = dict(EXPECTED)
    assert worker.rows("count") == expected

    for number, how in enumerate(["warm", "cold", "moved"]):
        assert worker.stop() == 0
        if how == "cold":
            shutil.rmtree(house.folder / "one")
        logged = sum(len(house.logged(partition)) for partition in range(2))
        worker = house.start("two" if how == "moved" else "one")
        assert worker.rows("count") == expected, how
        restored = int(house.wait_log(worker, " restored ").split("records=")[1].split()[0])
        # Two claims.
        assert restored < 10 if how == "warm" else restored == logged + 2, (how, restored, logged)
        house.send(*sent[:20], house.thing("key-0", EVENTS + number))
        settled += 21
        expected["key-0"] += 1
        house.wait_settled(settled, worker)
        assert worker.rows("count") == expected, how
        assert (house.outcomes(worker)["duplicate"], house.outcomes(worker)["handled"]) == (20, 1)
        explained = worker.get("/explained/")
        assert {entry["event_id"] for entry in explained} == {
            f"test#key-{n % KEYS}-{n}" for n in range(20)
        }
        assert all(
            entry["first_offset"] < entry["offset"] and entry["first_seen_ms"] > 0
            for entry in explained
        )


def test_a_row_of_another_worker_says_where_it_is(house: House) -> None:
    """The worker that is asked names the one that has the other partitions; the owner shows the row."""
    house.build(partitions=2)
    workers = [house.start(name, ready=0) for name in ("one", "two")]
    wait_for(
        lambda: [len(of.get("/subscriptions/")[0]["next_offsets"]) for of in workers] == [1, 1]
    )
    house.send(house.thing("a", partition=1))
    house.wait_settled(1, *workers)
    answers = sorted((of.answer("/tables/count/a/") for of in workers), key=lambda of: of[0])
    assert answers[0] == (200, {"key": "a", "value": 1})
    status, answer = answers[1]
    assert status == 404
    [(name, partitions)] = answer["elsewhere"].items()
    assert partitions == [1]
    assert "@" in name
    assert answer["error"] == f"no row 'a' in partitions [0] of this worker; [1] are at {name}"
    assert [of.stop() for of in workers] == [0, 0]
