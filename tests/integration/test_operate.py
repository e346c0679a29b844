"""Operating a live group: seeks and pauses through rebalances and kills, concurrency, what the state makes of it."""

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from famulus.control.pauses import admin_audit_topic
from famulus.dev.worker import WorkerProcess
from famulus.observability import metric_definitions as c
from tests.integration.test_metrics import families, series, value
from tests.integration.test_pause import NOTING, handled, paused_at, post, send
from tests.support.on_kafka.commands import one_line
from tests.support.on_kafka.house import SLEEPING, House, wait_for

pytestmark = pytest.mark.timeout(400)  # several workers each
TABLE = 'count = things.Table("count", key=str, value=int, default=int)\n'
FAILING = """
from app import PermanentError


@handles(Thing)
async def note(thing: Thing) -> None:
    if thing.note == "bad":
        raise PermanentError("no")
    count[thing.key] += 1
    with Path("handled").open("a") as file:
        file.write(f"{thing.key} {thing.number}\\n")
"""


def is_carried_out(*workers: WorkerProcess) -> bool:
    """Whether no seek waits any more, as *workers* know it."""
    return all(worker.get("/seek/") == [] for worker in workers)


def has(worker: WorkerProcess, count: int) -> bool:
    """Whether a worker has so many partitions."""
    return len(worker.get("/subscriptions/")[0]["next_offsets"]) == count


def audits(house: House, action: str) -> list[dict[str, Any]]:
    """What was written down of an action."""
    found = [
        json.loads(logged.value or b"")
        for logged in house.logged(topic=admin_audit_topic(house.group))
    ]
    return [audit for audit in found if audit["action"] == action]


def test_pause_and_seek_on_three_workers_with_a_rebalance_and_a_kill(house: House, do: Any) -> None:
    """Nothing is handled while all is paused, nothing is lost, and every partition goes on where it was told, once."""
    keys = [f"k{p}" for p in range(6)]
    house.build(NOTING, options=", dedupe=False", partitions=6)
    one = house.start("one", ready=6)
    two, three = house.start("two", ready=1), house.start("three", ready=1)
    wait_for(lambda: all(has(worker, 2) for worker in (one, two, three)))
    send(house, 1, 10, 6)
    house.wait_settled(60, one, two, three)
    assert handled(house) == {key: [*range(1, 11)] for key in keys}

    do("pause", "--all", "--note", "moving")
    wait_for(lambda: len(paused_at(one, two, three)) == 6)
    send(house, 11, 30, 6)
    shown = do("seek", "things", "--to-beginning", "--yes")
    assert "tables count them twice" in shown
    two.signal(signal.SIGKILL)  # while it lets its partitions go, or after, or before
    house.kill(two)
    four = house.start("four", ready=1)
    alive = one, three, four
    wait_for(lambda: all(has(worker, 2) for worker in alive) and is_carried_out(*alive))
    assert len(paused_at(*alive)) == 6
    assert handled(house) == {key: [*range(1, 11)] for key in keys}
    assert house.committed() == dict.fromkeys(range(6), 0)
    assert [audit["to"] for audit in audits(house, "seek")] == [0] * 6

    do("resume", "--all")
    house.wait_settled(180, *alive)
    assert handled(house) == {key: [*range(1, 11), *range(1, 31)] for key in keys}
    wait_for(lambda: house.committed() == dict.fromkeys(range(6), 30))
    five = house.start("five", ready=1)  # a rebalance later
    wait_for(
        lambda: sum(len(w.get("/subscriptions/")[0]["next_offsets"]) for w in (*alive, five)) == 6
    )
    send(house, 31, 31, 6)
    wait_for(lambda: all(of[-1] == 31 for of in handled(house).values()))
    assert handled(house) == {key: [*range(1, 11), *range(1, 32)] for key in keys}
    for worker in (*alive, five):
        assert worker.stop() == 0


def test_a_seek_of_what_remembers_nothing_moves_the_commit(house: House, do: Any) -> None:
    """Back and forth over the web, to an offset, a time, the end; a kill afterwards repeats nothing of it."""
    house.build(NOTING.replace("    count[thing.key] += 1\n", ""), options=", dedupe=False")
    agent = house.checkout / "agents/things.py"
    agent.write_text(agent.read_text().replace(TABLE, ""))
    worker = house.start()
    began = datetime.now(UTC) - timedelta(minutes=5)
    times = [began + timedelta(minutes=n - 1) for n in range(1, 6)]
    house.send(
        *(house.thing("a", n, at_ms=int(at.timestamp() * 1000)) for n, at in enumerate(times, 1))
    )
    wait_for(lambda: handled(house) == {"a": [1, 2, 3, 4, 5]})
    wait_for(lambda: house.committed() == {0: 5})

    status, answer = post(worker, "/seek/", topic="things", partition=0, offset=3, dry_run=True)
    assert (status, answer["notes"]) == (200, [f"{house.topic}: 2 records are handled again"])
    assert is_carried_out(worker)
    assert post(worker, "/seek/", topic="things", partition=0, offset=3, note="why")[0] == 200
    wait_for(lambda: handled(house) == {"a": [1, 2, 3, 4, 5, 4, 5]})
    do("seek", "things", "--to-beginning", "--yes")
    wait_for(lambda: handled(house)["a"][7:] == [1, 2, 3, 4, 5])
    assert (
        post(worker, "/seek/", topic="*", time=(times[4] - timedelta(seconds=1)).isoformat())[0]
        == 200
    )
    wait_for(lambda: handled(house)["a"][12:] == [5])
    wait_for(lambda: house.committed() == {0: 5} and is_carried_out(worker))
    house.kill(worker)

    # Nobody is there: it waits.
    do("seek", "things", "--partition", "0", "--to-offset", "2", "--yes")
    do("seek", "things", "--to-end", "--yes")  # which counts instead
    house.send(house.thing("a", 6))
    worker = house.start("two")
    wait_for(lambda: handled(house)["a"][13:] == [6])
    assert is_carried_out(worker)
    for asked, expected in (
        ({"topic": "nothing", "edge": "end"}, 404),
        ({"topic": "things", "partition": 0, "offset": 9}, 404),
        ({"topic": "things"}, 400),
        ({"topic": "things", "edge": "end", "offset": 1}, 400),
        ({"topic": "things", "time": "soon"}, 400),
        ({"topic": "things", "edge": "middle"}, 400),
    ):
        assert post(worker, "/seek/", **asked)[0] == expected, asked
    assert worker.stop() == 0


def test_a_seek_back_repeats_no_effect_and_one_forward_skips(house: House, do: Any) -> None:
    """Marks outlive a seek, so what is read again is duplicate; a partition that halted goes on behind the event."""
    house.build(FAILING, options=', on_dead_letter="halt"')
    worker = house.start()
    house.send(
        *(house.thing("a", n) for n in range(1, 4)), house.thing("a", 4, "bad"), house.thing("a", 5)
    )
    wait_for(lambda: has_halted(worker))
    assert handled(house) == {"a": [1, 2, 3]}
    shown = do("seek", "things", "--partition", "0", "--to-offset", "4", "--yes", "--json")
    assert '"skipped":1' in shown
    assert "1 records are skipped" in shown
    wait_for(lambda: handled(house) == {"a": [1, 2, 3, 5]})
    wait_for(lambda: house.committed() == {0: 5})

    assert "are duplicates and not handled" in do("seek", "things", "--to-beginning", "--dry-run")
    do("seek", "things", "--partition", "0", "--to-offset", "0", "--yes")
    wait_for(lambda: has_halted(worker))
    wait_for(lambda: house.outcomes(worker)["duplicate"] == 3)  # counted when they are settled
    assert handled(house) == {"a": [1, 2, 3, 5]}
    assert worker.rows("count") == {"a": 4}
    worker.signal(signal.SIGKILL)
    house.kill(worker)
    # Which goes on at the bad one, not where the first worker was before.
    worker = house.start("two", ready=1)
    wait_for(lambda: has_halted(worker))
    assert worker.get("/subscriptions/")[0]["processed"]["0"]["next_offset"] == 3
    house.kill(worker)


def has_halted(worker: WorkerProcess) -> bool:
    """Whether the worker says that a partition halted."""
    status, answer = worker.answer("/readyz")
    return status == 503 and "this subscription halts" in str(answer["why"])


def test_concurrency_changes_on_the_whole_group(house: House, do: Any) -> None:
    """By command and over the web, up and down, for a topic and each worker; later workers know it, too."""
    house.build(SLEEPING)
    worker = house.start()

    def in_hand() -> float:
        return value(series(families(worker)), c.IN_HAND, partition="0")

    do("concurrency", "things", "2", "--note", "slow")
    wait_for(lambda: worker.get("/concurrency/")[1]["concurrency"] == 2)
    house.send(*(house.thing(f"k{n}", 1, "wait") for n in range(12)))
    wait_for(lambda: in_hand() == 2)
    status, rows = post(worker, "/concurrency/", topic="things", concurrency=7)
    assert (status, [(row["topic"], row["concurrency"], row["settings"]) for row in rows]) == (
        200,
        [(None, 100, 100), (house.topic, 7, 100)],
    )
    wait_for(lambda: in_hand() == 7)
    assert [row["concurrency"] for row in json.loads(do("concurrency", "--json"))] == [7]
    assert "each partition of" in do("paused")
    do("concurrency", "--all", "9")
    do("concurrency", "things", "--reset")
    wait_for(lambda: in_hand() == 9)
    house.kill(worker)

    worker = house.start("two")
    wait_for(lambda: in_hand() == 9)
    (house.checkout / "go").touch()
    house.wait_settled(12, worker)
    assert [(a["what"], a["to"]) for a in audits(house, "concurrency")] == [
        (house.topic, 2),
        (house.topic, 7),
        ("*", 9),
        (house.topic, None),
    ]
    assert do("concurrency", "--all", "--reset", "--json").strip() == "[]"
    for asked, expected in (
        ({"topic": "things", "concurrency": 0}, 400),
        ({"topic": "things", "concurrency": 10_001}, 400),
        ({"topic": "nothing", "concurrency": 1}, 404),
        ({"topic": "things"}, 400),
    ):
        assert post(worker, "/concurrency/", **asked)[0] == expected, asked
    assert "not in the range" in do("concurrency", "things", "0", code=2)
    assert worker.stop() == 0


def test_offsets_are_reset_while_nobody_runs(house: House, do: Any) -> None:
    """The state goes there with the commit, and keeps what it knows; a seek that waits does not come after it."""
    house.build(NOTING)
    worker = house.start()
    house.send(*(house.thing("a", n) for n in range(1, 5)))
    house.wait_settled(4, worker)
    refused = one_line(do("reset-offsets", "things", "--to-beginning", "--yes", code=78))
    assert "stop its workers first" in refused
    assert worker.stop() == 0

    assert "add --yes" in do("reset-offsets", "things", "--to-end", code=2)
    assert "has the offsets 0 to 4, not 5" in one_line(
        do("reset-offsets", "things", "--partition", "0", "--to-offset", "5", code=78)
    )
    do("seek", "things", "--to-end", "--yes")
    shown = do("reset-offsets", "things", "--shift-by", "-3", "--yes", "--json")
    assert json.loads(shown.splitlines()[0])["to"] == 1
    assert "state replay --topic" in shown
    assert house.committed() == {0: 1}
    worker = house.start("one")
    house.wait_settled(4, worker)
    assert house.outcomes(worker)["duplicate"] == 3
    assert handled(house) == {"a": [1, 2, 3, 4]}
    house.send(house.thing("a", 5))
    wait_for(lambda: handled(house) == {"a": [1, 2, 3, 4, 5]})
    assert worker.stop() == 0

    do("reset-offsets", "--all", "--to-end", "--yes")
    do("seek", "things", "--to-end", "--yes")
    do("state", "replay", "--topic", "things", "--yes")
    worker = house.start("one")
    wait_for(lambda: handled(house)["a"][5:] == [1, 2, 3, 4, 5])
    assert worker.stop() == 0


def test_what_a_seek_cannot_do_is_one_line(house: House, do: Any) -> None:
    """Also before any worker has run."""
    house.build(NOTING, partitions=2)
    assert "things" in one_line(do("seek", "nothing", "--to-end", code=78))
    assert "say which" in one_line(do("seek", "things", "--to-offset", "0", code=78))
    assert "say one place" in do("seek", "things", code=2)
    assert "say one place" in do("seek", "things", "--to-end", "--to-time", "2026-01-01", code=2)
    assert "is no time" in do("seek", "things", "--to-time", "soon", code=2)
    assert "name a TOPIC, or say --all" in do("seek", "--to-end", code=2)
    assert "add --yes" in do("seek", "--all", "--to-end", code=2)
