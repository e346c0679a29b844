"""Hot keys of a live worker: what it tells of them beside what was sent, by its page and by the command."""

import json
from pathlib import Path
from typing import Any

from famulus.observability.hot_keys import digest_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import House, wait_for

SLOW = """
@handles(Thing)
async def note(thing: Thing) -> None:
    if thing.key == "slow":
        await asyncio.sleep(0.01)
    count[thing.key] += 1
"""
HOT, OTHERS, SLOWED = 120, 80, 120


def partitions(answer: Any) -> dict[int, Any]:
    """By number."""
    return {of["partition"]: of for of in answer["topics"]}


def test_hot_keys_are_those_that_were_sent(house: House, tmp_path: Path) -> None:
    """Counted by number, bytes and time; no key is shown until the settings say so."""
    house.build(SLOW, partitions=2)
    worker = house.start()
    events = [
        *(house.thing("hot", n, partition=0) for n in range(HOT)),
        *(house.thing(f"k{n}", n, partition=0) for n in range(OTHERS)),
        *(house.thing("large", n, "x" * 2_000, partition=0) for n in range(2)),
        *(house.thing("slow", n, partition=1) for n in range(SLOWED)),
    ]
    house.send(*events)
    house.wait_settled(len(events), worker)
    first, second = partitions(worker.get("/hotkeys/")).values()
    assert (first["topic"], first["events"], second["events"]) == (
        house.topic,
        HOT + OTHERS + 2,
        SLOWED,
    )
    assert first["skew"] == second["skew"] == round(2 * first["events"] / len(events), 2)
    keys = {key["key"]: key for key in first["keys"]}
    hot, large = keys[digest_of(b"hot")], keys[digest_of(b"large")]
    assert first["keys"][0] == hot
    assert (hot["count"], hot["share"]) == (HOT, round(HOT / first["events"], 4))
    assert hot["bytes"] == sum(
        len(e.key or b"") + len(e.value or b"") for e in events if e.key == b"hot"
    )
    assert (large["count"], large["bytes"] > 4_000) == (2, True)
    [slow] = second["keys"]
    assert (slow["key"], slow["count"], slow["share"]) == (digest_of(b"slow"), SLOWED, 1.0)
    assert SLOWED * 0.01 <= slow["handler_s"] < 30  # each that waits is timed
    assert "hot" not in json.dumps(worker.get("/hotkeys/")["topics"][0]["keys"])

    asking = {"WORKER__DATADIR": str(worker.data), "KAFKA__TOPICPREFIX": house.kafka.topic_prefix}
    code, output = faust("hotkeys", "things", "--url", worker.url, "--json", **asking)
    assert (code, json.loads(output)) == (0, worker.get("/hotkeys/")), output
    code, output = faust("hotkeys", "--url", worker.url, **asking)
    assert (code, digest_of(b"hot") in output, f"{house.topic}/1" in output) == (0, True, True), (
        output
    )
    code, output = faust("hotkeys", "nothing", "--url", worker.url, **asking)
    assert (code, "the worker has no partition of" in one_line(output)) == (78, True), output
    code, output = faust("hotkeys", "--url", worker.url, WORKER__READTOKEN="a" * 32)
    assert (code, "does not take this token" in one_line(output)) == (77, True), output
    assert worker.stop() == 0
    assert "leaked" not in worker.log.read_text("utf-8", "replace")
    code, output = faust("hotkeys", "--url", worker.url, **asking)
    assert (code, "no worker answers at" in one_line(output)) == (69, True), output
    code, output = faust("hotkeys", WORKER__DATADIR=str(tmp_path / "nowhere"))
    assert (code, "no token can be read" in one_line(output)) == (78, True), output

    worker = house.start(WORKER__SHOWKEYS="true")
    house.send(*(house.thing("hot", n, partition=0) for n in range(HOT, HOT + 5)))
    wait_for(lambda: partitions(worker.get("/hotkeys/"))[0]["events"] == 5)
    assert [
        (key["key"], key["count"]) for key in partitions(worker.get("/hotkeys/"))[0]["keys"]
    ] == [("hot", 5)]
    assert worker.stop() == 0
