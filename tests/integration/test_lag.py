"""Lag of real groups: each of Burrow's states as it comes about, odd logs and commits, and another client's figures."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import RecordsToDelete
from confluent_kafka.admin import AdminClient

from famulus.config import KafkaConfig
from famulus.errors import ConfigError
from famulus.kafka import burrow
from famulus.kafka.admin import admin_of, create_topics
from famulus.kafka.burrow import State
from famulus.kafka.group_members import commit_for
from famulus.kafka.lag import GroupLag, GroupLagMonitor
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.places import PROJECT

LIMIT_S = 30.0
ANSWER_S = 3.0
AGE_S = 3600


class Scene:
    """A topic, its group, and what happens to them."""

    def __init__(self, kafka: KafkaConfig, name: str = "things") -> None:
        self.kafka = kafka
        self.group = kafka.consumer_config.group_id
        self.topic = kafka.topic(name)
        self.watch = GroupLagMonitor(kafka, self.group, LIMIT_S, expected=[self.topic])

    def place(self, partition: int) -> TopicPartition:
        """One of its partitions."""
        return TopicPartition(self.topic, partition)

    async def create(self, partitions: int = 1) -> None:
        """Make the topic."""
        await create_topics(self.kafka, {self.topic: partitions}, LIMIT_S)

    async def send(
        self, count: int, partition: int = 0, *, age_s: float = 0, size: int = 1
    ) -> None:
        """Send so many records, so old."""
        at_ms = round((time.time() - age_s) * 1000)
        async with Producer(self.kafka) as producer:
            await producer.send_all(
                [ProducerRecord(self.topic, b"k", b"v" * size, [], partition, at_ms)] * count
            )

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit for the group, which must have no members."""
        await commit_for(
            self.kafka, {self.place(n): offset for n, offset in offsets.items()}, LIMIT_S
        )

    async def truncate(self, partition: int, before: int) -> None:
        """Delete the records before an offset."""
        async with admin_of(self.kafka, LIMIT_S) as admin:
            await admin.delete_records(
                {self.place(partition): RecordsToDelete(before_offset=before)}
            )

    @contextlib.asynccontextmanager
    async def member(self) -> AsyncIterator[AIOKafkaConsumer]:
        """A member of the group that has all partitions, and commits when it is told."""
        consumer = AIOKafkaConsumer(
            self.topic,
            bootstrap_servers=self.kafka.bootstrap_servers,
            group_id=self.group,
            client_id="member",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            while not consumer.assignment():  # the group is joined in the background
                await asyncio.sleep(0.05)
            yield consumer
        finally:
            await consumer.stop()

    def others_say(self) -> dict[int, int]:
        """The lag of each partition by librdkafka: the end without what is committed, or without the beginning."""
        settings: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.kafka.bootstrap_servers
        }
        admin = AdminClient(settings)  # it must be there until its answer is
        asked = [confluent_kafka.ConsumerGroupTopicPartitions(self.group)]
        answer = admin.list_consumer_group_offsets(asked)[self.group].result(LIMIT_S)
        offsets = {
            of.partition: of.offset for of in answer.topic_partitions if of.topic == self.topic
        }
        consumer = confluent_kafka.Consumer({**settings, "group.id": f"{self.group}-other"})
        try:
            partitions = consumer.list_topics(self.topic, LIMIT_S).topics[self.topic].partitions
            found = {}
            for number in partitions:
                low, high = consumer.get_watermark_offsets(
                    confluent_kafka.TopicPartition(self.topic, number), timeout=LIMIT_S
                )
                found[number] = high - offsets.get(number, low)
            return found
        finally:
            consumer.close()


@pytest.fixture
def scene(kafka: KafkaConfig) -> Scene:
    """A topic that nobody has made yet."""
    return Scene(kafka)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that say enough after half a second: the members here commit when they are told, not every second."""
    monkeypatch.setattr(burrow, "JUDGED_S", 0.5)


async def looks(scene: Scene, count: int = 1) -> GroupLag:
    """The answer after so many looks, which lie apart."""
    for _ in range(count - 1):
        await scene.watch.look()
        await asyncio.sleep(0.3)
    return await scene.watch.look()


async def test_every_partition_counts(scene: Scene) -> None:
    """Without a commit, empty, with one, truncated below it, committed above the end: as another client counts."""
    await scene.create(6)
    for partition, count in {0: 7, 2: 20, 3: 20, 4: 5, 5: 9}.items():
        await scene.send(count, partition, age_s=AGE_S)
    await scene.truncate(5, 4)
    await scene.commit({2: 12, 3: 6, 4: 5})
    theirs = await asyncio.to_thread(scene.others_say)
    found = await scene.watch.look()
    assert (
        {p.place.partition: p.look.lag for p in found.partitions}
        == theirs
        == {0: 7, 1: 0, 2: 8, 3: 14, 4: 0, 5: 5}
    )
    assert found.lag == 34
    ages = {p.place.partition: p.age_s for p in found.partitions}
    assert {number for number, age in ages.items() if age is not None} == {0, 2, 3, 5}
    assert all(AGE_S <= age < AGE_S + 60 for age in ages.values() if age is not None)

    await scene.truncate(3, 10)
    await scene.commit({4: 8})
    after = {p.place.partition: p.look for p in (await scene.watch.look()).partitions}
    assert (after[3].lag, after[3].deleted, after[3].ahead) == (10, 4, 0)  # what can still be read
    assert (after[4].lag, after[4].deleted, after[4].ahead) == (0, 0, 3)


async def test_the_age_is_that_of_the_next_record(scene: Scene) -> None:
    """Of each partition; a batch that is larger than what is asked for at first counts, too."""
    await scene.create(2)
    await scene.send(3, 0, age_s=2 * AGE_S)
    await scene.send(1, 0, age_s=AGE_S)
    await scene.send(3, 1, age_s=3 * AGE_S, size=200_000)
    await scene.commit({0: 3, 1: 1})
    first, second = (await scene.watch.look()).partitions
    assert first.age_s == pytest.approx(AGE_S, abs=60)
    assert second.age_s == pytest.approx(3 * AGE_S, abs=60)


async def test_ok_while_the_lag_gets_less(scene: Scene) -> None:
    """Also while more comes; what is left is said in seconds, and who has the partition."""
    await scene.create()
    await scene.send(100)
    async with scene.member() as member:
        for offset in (10, 40, 80):
            await member.commit({scene.place(0): offset})
            await scene.send(5)
            found = await scene.watch.look()
    [partition] = found.partitions
    assert (found.state, found.lag, found.members) == (State.OK, 35, 1)
    assert partition.rates is not None
    assert partition.rates.consumed > partition.rates.arrived > 0
    assert partition.eta_s == pytest.approx(
        35 / (partition.rates.consumed - partition.rates.arrived)
    )
    assert found.eta_s == partition.eta_s
    assert (partition.owner or "").startswith("member@")


@pytest.mark.usefixtures("quick")
async def test_warning_while_it_falls_behind(scene: Scene) -> None:
    """It reads, but more comes."""
    await scene.create()
    await scene.send(20)
    async with scene.member() as member:
        for offset in (2, 4, 6):
            await member.commit({scene.place(0): offset})
            await scene.send(10)
            found = await looks(scene)
            await asyncio.sleep(0.3)
    assert (found.state, found.eta_s) == (State.WARNING, None)


@pytest.mark.usefixtures("quick")
async def test_stalled_while_members_commit_nothing_new(scene: Scene) -> None:
    """Of one partition alone; a member that never committed is stalled, too."""
    await scene.create(3)
    for partition in range(3):
        await scene.send(10, partition)
    async with scene.member() as member:
        await member.commit({scene.place(0): 3, scene.place(1): 10})
        found = await looks(scene, 3)
    assert [p.state for p in found.partitions] == [State.STALLED, State.OK, State.STALLED]
    assert found.state is State.STALLED


async def test_stopped_when_nobody_is_left(scene: Scene) -> None:
    """At the second look already."""
    await scene.create()
    await scene.send(10)
    async with scene.member() as member:
        await member.commit({scene.place(0): 3})
    found = await looks(scene, 2)
    assert (found.state, found.members, found.lag) == (State.STOPPED, 0, 7)


async def test_rewind_until_it_is_there_again(scene: Scene) -> None:
    """A commit that goes back; no rewind any more when it has come as far as it was."""
    await scene.create()
    await scene.send(10)
    async with scene.member() as member:
        await member.commit({scene.place(0): 8})
        await scene.watch.look()
        await member.commit({scene.place(0): 2})
        assert (await scene.watch.look()).state is State.REWIND
        await member.commit({scene.place(0): 9})
        assert (await scene.watch.look()).state is State.OK


async def test_members_of_the_new_protocol_are_not_called_stopped(scene: Scene) -> None:
    """The cluster does not show them to us, only that there is such a group."""
    await scene.create()
    await scene.send(10)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": scene.kafka.bootstrap_servers,
            "group.id": scene.group,
            "group.protocol": "consumer",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([scene.topic])
        assert len(await asyncio.to_thread(consumer.consume, 3, LIMIT_S)) == 3
        at = confluent_kafka.TopicPartition(scene.topic, 0, 3)
        await asyncio.to_thread(consumer.commit, offsets=[at], asynchronous=False)
        found = await looks(scene, 2)
    finally:
        await asyncio.to_thread(consumer.close)
    assert (found.state, found.lag) == (None, 7)


async def test_a_group_without_commits(scene: Scene) -> None:
    """Counts from the beginning, where a topic is named; else there is no such group."""
    await scene.create(2)
    await scene.send(4)
    found = await looks(scene, 2)
    assert ([p.look.lag for p in found.partitions], found.state) == ([4, 0], State.STOPPED)
    with pytest.raises(ConfigError, match="there is no group"):
        await GroupLagMonitor(scene.kafka, "nobody", LIMIT_S).look()
    with pytest.raises(ConfigError, match="there is no topic nothing"):
        await GroupLagMonitor(scene.kafka, scene.group, LIMIT_S, only="nothing").look()


async def test_two_hundred_topics_are_no_burden(kafka: KafkaConfig, scene: Scene) -> None:
    """Both looks with the second between them are there in time, and complete, with the age of every record."""
    names = [kafka.topic(f"many-{number}") for number in range(200)]
    await create_topics(kafka, dict.fromkeys(names, 2), 4 * LIMIT_S)
    async with Producer(kafka) as producer:
        await producer.send_all(
            [ProducerRecord(name, b"k", b"v", [], number) for name in names for number in range(2)]
        )
    await commit_for(kafka, {TopicPartition(name, 0): 0 for name in names}, LIMIT_S)
    began = time.monotonic()
    watch = GroupLagMonitor(kafka, scene.group, LIMIT_S)
    await watch.look()
    await asyncio.sleep(1)
    found = await watch.look()
    assert time.monotonic() - began < ANSWER_S
    # The partitions without a commit as well.
    assert (found.lag, len(found.partitions)) == (400, 400)
    assert all(p.age_s is not None for p in found.partitions)


# The command.


def command(kafka: KafkaConfig, tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """Run `faust -A app lag ...`: its exit code and what it printed."""
    done = subprocess.run(
        [Path(sys.executable).with_name("faust"), "-A", "app", "lag", *arguments],
        cwd=PROJECT,
        env={**os.environ, **settings_of(kafka, tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * LIMIT_S,  # some look for ten seconds
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_answers(kafka: KafkaConfig, scene: Scene, tmp_path: Path) -> None:
    """The app's own group unless another is named; for people and as JSON; 1 only where --check finds something."""

    async def happen() -> None:
        await scene.create(2)
        await scene.send(6, age_s=AGE_S)
        await scene.send(6, 1)
        await scene.commit({0: 2, 1: 9})

    asyncio.run(happen())
    code, output = command(kafka, tmp_path, "--json")
    assert code == 0, output
    found = json.loads(output)
    assert (found["group"], found["lag"], found["state"], found["members"]) == (
        scene.group,
        4,
        "stopped",
        0,
    )
    first, second = found["partitions"]
    assert (first["committed"], first["end"], first["lag"], first["eta_s"]) == (2, 6, 4, None)
    assert AGE_S <= first["lag_s"] < AGE_S + 60
    assert (second["lag"], second["ahead"], second["state"]) == (0, 3, "ok")
    code, output = command(kafka, tmp_path, scene.group, "--topic", "things", "--check")
    assert code == 1, output
    assert "stopped, 4 records behind (1.0 h), 0 members" in output
    assert "committed 9, above the end of the log 6" in output


def test_ten_seconds_tell_a_stall(kafka: KafkaConfig, scene: Scene, tmp_path: Path) -> None:
    """With the command's own patience: unclear at first, stalled then."""

    async def happen() -> list[tuple[int, str]]:
        await scene.create()
        await scene.send(6)
        async with scene.member() as member:
            await member.commit({scene.place(0): 2})
            return [
                await asyncio.to_thread(command, kafka, tmp_path, "--json", "--check", *more)
                for more in ([], ["--looks", "11"])
            ]

    answers = asyncio.run(happen())
    assert [(code, json.loads(output)["state"]) for code, output in answers] == [
        (0, None),
        (1, "stalled"),
    ]


def test_watching_ends_with_ctrl_c(kafka: KafkaConfig, scene: Scene, tmp_path: Path) -> None:
    """Cleanly; each look was a line."""
    asyncio.run(scene.create())
    started = subprocess.Popen(
        [
            Path(sys.executable).with_name("faust"),
            "-A",
            "app",
            "lag",
            "--topic",
            "things",
            "--watch",
            "--json",
            "--interval",
            "0.2",
        ],
        cwd=PROJECT,
        env={**os.environ, **settings_of(kafka, tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    lines: list[dict[str, Any]] = [json.loads(started.stdout.readline()) for _ in range(3)]
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=LIMIT_S)
    assert (started.returncode, errors) == (0, "")
    assert [line["lag"] for line in lines] == [0, 0, 0]
    assert lines[2]["window_s"] > lines[1]["window_s"] > lines[0]["window_s"] == 0


def test_what_cannot_be_answered(kafka: KafkaConfig, tmp_path: Path) -> None:
    """One line and its exit code: no such group or topic, no broker, wrong use."""
    code, output = command(kafka, tmp_path, "nobody")
    assert (code, "there is no group nobody" in one_line(output)) == (78, True), output
    code, output = command(kafka, tmp_path, "--topic", "nothing")
    assert (code, f"there is no topic {kafka.topic('nothing')}" in one_line(output)) == (
        78,
        True,
    ), output
    code, output = command(kafka, tmp_path, "--watch", "--check")
    assert code == 2, output
    gone = {
        **settings_of(kafka, tmp_path),
        "KAFKA__BOOTSTRAPSERVERS": "127.0.0.1:1",
        "WORKER__STARTUPTIMEOUTS": "1",
    }
    code, output = faust("lag", **gone)
    assert (code, "no Kafka broker answers" in one_line(output)) == (69, True), output
