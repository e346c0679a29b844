"""Whether a world came out right."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from famulus.deadletter.topics import dead_letter_topic
from famulus.state.changelog import table_and_key
from tests.support.in_memory.log import Fold, fold
from tests.support.in_memory.scenario import Expected, Scenario, expected
from tests.support.in_memory.world import World


def judge(scenario: Scenario, make_store: Callable[[int], Any] | None = None) -> None:
    """Run a scenario.

    Raises AssertionError when anything of the promise is broken. *make_store*: on a disk.
    """
    asyncio.run(_judge(World(scenario, make_store)))


async def _judge(world: World) -> None:
    await world.run()
    assert not world.wrong, world.wrong
    check_published(world)
    if world.scenario.remembers:
        await check_state(world)


def check_published(world: World) -> None:
    """Every event that a handler published has left, every event that failed for good lies in the dead letters."""
    wanted = expected(world.scenario)
    published = {(r.value or b"").decode() for r in world.published if r.topic == "out"}
    buried = {
        dict(r.headers)["ce_id"].decode()
        for r in world.published
        if r.topic == dead_letter_topic("t")
    }
    assert published == wanted.published
    assert buried == wanted.buried


async def check_state(world: World) -> None:
    """The tables are the fold of the events: in the store, in the log, on every other disk, and made from the log."""
    scenario, wanted = world.scenario, expected(world.scenario)
    assert world.final is not None
    check_rows(scenario, wanted, world.final)
    assert world.final == fold(world.log)
    assert (world.committed or 0) <= world.final.processed.next_offset
    for disk in (0, 1, 2, None):
        check_rows(scenario, wanted, found := await world.restored(disk))
        assert found == world.final
        assert found == fold(world.log)
    world.log.compact()
    check_rows(scenario, wanted, await world.restored(None))


def check_rows(scenario: Scenario, wanted: Expected, found: Fold) -> None:
    """Sums, and each lane's events in their order."""
    rows: dict[str, dict[str, Any]] = {"sums": {}, "trail": {}}
    for key, value in found.rows.items():
        table, row = table_and_key(key)
        rows[table][row.decode()] = msgspec.json.decode(value)
    assert +Counter(rows["sums"]) == +wanted.sums
    assert -Counter(rows["sums"]) == -wanted.sums
    trail: dict[str, list[str]] = rows["trail"]
    if any(
        scenario.deeds[r.headers[0][1].decode()].lane != r.key.decode() for r in scenario.records
    ):
        assert {k: sorted(v) for k, v in trail.items()} == {
            k: sorted(v) for k, v in wanted.trail.items()
        }
    else:
        assert trail == wanted.trail
