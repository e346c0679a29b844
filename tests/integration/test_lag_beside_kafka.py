"""Lag beside Kafka's own `kafka-consumer-groups`: a group for each of Burrow's states, for odd commits and logs."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiokafka import AIOKafkaConsumer

from famulus.config import ConsumerConfig, KafkaConfig
from famulus.kafka import burrow
from famulus.kafka.burrow import State
from famulus.kafka.lag import GroupLag
from tests.integration.test_lag import Scene
from tests.support.on_kafka.kafka_tools import Offsets, described

SENT, SEEN_S, APART_S, STEPS = 20, 0.5, 0.3, 3
WITH_MEMBER = "ok", "warning", "stalled", "rewind", "uncommitted"
ALONE = "stopped", "truncated", "ahead"
STATES = {
    "ok": State.OK,
    "warning": State.WARNING,
    "stalled": State.STALLED,
    "rewind": State.REWIND,
    "uncommitted": State.STALLED,
    "stopped": State.STOPPED,
    "truncated": State.STOPPED,
    "ahead": State.OK,
}


def scene_of(kafka: KafkaConfig, name: str) -> Scene:
    """A topic and a group of its own."""
    group = ConsumerConfig(group_id=f"{kafka.consumer_config.group_id}-{name}")
    return Scene(kafka.model_copy(update={"consumer_config": group}), f"things-{name}")


async def begin(
    scenes: dict[str, Scene], members: dict[str, AIOKafkaConsumer], stack: AsyncExitStack
) -> None:
    """Two partitions each, of which the second stays empty; who has a member gets it, the others commit once."""
    for name, scene in scenes.items():
        await scene.create(2)
        await scene.send(SENT)
        if name in WITH_MEMBER:
            members[name] = await stack.enter_async_context(scene.member())
    async with scenes["stopped"].member() as member:
        await member.commit({scenes["stopped"].place(0): 3})
    await scenes["truncated"].commit({0: 6})
    await scenes["truncated"].truncate(0, 10)
    await scenes["ahead"].commit({0: SENT + 9})


async def go_on(scenes: dict[str, Scene], members: dict[str, AIOKafkaConsumer], step: int) -> None:
    """One step of what each group does."""
    offsets = {"ok": (5, 9, 14), "warning": (1, 2, 3), "stalled": (3, 3, 3), "rewind": (8, 9, 4)}
    for name, of in offsets.items():
        await members[name].commit({scenes[name].place(0): of[step]})
    await scenes["warning"].send(5)


async def situations(
    kafka: KafkaConfig,
) -> tuple[dict[str, GroupLag], dict[tuple[str, str, int], Offsets]]:
    """What we say of each group, and what the tool says of all of them, while their members are there."""
    scenes = {name: scene_of(kafka, name) for name in STATES}
    members: dict[str, AIOKafkaConsumer] = {}
    async with AsyncExitStack() as stack:
        await begin(scenes, members, stack)
        for step in range(STEPS):
            await go_on(scenes, members, step)
            found = {name: await scene.watch.look() for name, scene in scenes.items()}
            await asyncio.sleep(APART_S)
        groups = [scene.group for scene in scenes.values()]
        return found, await asyncio.to_thread(described, kafka.bootstrap_servers, *groups)


async def test_numbers_are_those_of_kafkas_own_tool(
    kafka: KafkaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed, end and lag of each partition that the tool lists; it knows no states, and counts what is deleted.

    Where it says `-`, nothing is committed: then the lag is all that the log has.
    """
    monkeypatch.setattr(burrow, "JUDGED_S", SEEN_S)  # the members here commit when they are told
    found, theirs = await situations(kafka)
    assert {name: of.state for name, of in found.items()} == STATES
    ours = {
        (of.group, p.place.topic, p.place.partition): p
        for of in found.values()
        for p in of.partitions
    }
    assert theirs.keys() == {
        at for at, p in ours.items() if p.look.committed is not None or p.owner is not None
    }
    for at, (committed, end, lag) in theirs.items():
        look = ours[at].look
        assert (look.committed, look.end) == (committed, end), at
        if lag is None:
            assert (committed, look.lag) == (None, look.end - look.begin), at
        else:
            assert look.lag + look.deleted - look.ahead == lag, at
    by_name = {name: found[name].partitions[0].look for name in STATES}
    assert {name: look.lag for name, look in by_name.items()} == {
        "ok": 6,
        "warning": 32,
        "stalled": 17,
        "rewind": 16,
        "uncommitted": 20,
        "stopped": 17,
        "truncated": 10,
        "ahead": 0,
    }
    assert (by_name["truncated"].deleted, by_name["ahead"].ahead) == (4, 9)
    assert all(of.partitions[1].look.lag == 0 for of in found.values())
