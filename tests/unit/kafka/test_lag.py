"""Tests of the lag of a group: its table, and answers of an unhealthy cluster."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupLoadInProgressError,
    NotLeaderForPartitionError,
)
from rich.console import Console

from famulus.cli.lag import shown
from famulus.errors import AccessError
from famulus.formatting import duration
from famulus.kafka.burrow import LagSample, Rates, State
from famulus.kafka.group_admin import GroupAdmin
from famulus.kafka.lag import GroupLag, PartitionLag


def partition(
    number: int, look: LagSample, state: State | None, age_s: float | None = None
) -> PartitionLag:
    """Return the lag of one partition of a topic whose name has an escape sequence."""
    return PartitionLag(
        TopicPartition("t\x1b[2J", number), look, age_s, state, Rates(1.0, 3.0), None, None
    )


def text_of(found: GroupLag) -> str:
    """Return the table of *found* as a pipe gets it."""
    console = Console(width=120)
    with console.capture() as captured:
        console.print(shown(found))
    return captured.get()


def test_many_partitions_without_lag_are_counted() -> None:
    """Only partitions with lag are rows; deleted records and missing leaders are reported."""
    good = [partition(number, LagSample(1.0, 0, 5, 5), State.OK) for number in range(40)]
    lagging = partition(40, LagSample(1.0, 4, 9, 2), State.STALLED, 7200.0)
    found = GroupLag("g", 1.0, 1.0, 1, (*good, lagging), (TopicPartition("t", 41),))
    text = text_of(found)
    assert "g: stalled, 5 records behind (2.0 h), 1 member" in text
    assert "40 partitions without lag" in text
    assert "2 records deleted before the group read them, the log begins at 4" in text
    assert "t/41: no leader answers" in text
    assert "\x1b" not in text
    assert found.eta_s is None
    assert found.as_json()["unanswered"] == ["t/41"]


def test_open_transaction_that_keeps_the_group_from_reading_on_is_named() -> None:
    """Both the text and the JSON give the offset at which it begins."""
    held = partition(0, LagSample(1.0, 0, 9, 3, is_held_up=True), State.WARNING)
    found = GroupLag(
        "g", 1.0, 1.0, 1, (held, partition(1, LagSample(1.0, 0, 9, 3), State.WARNING)), ()
    )
    assert "behind an open transaction since offset 3" in text_of(found)
    assert [of["open_since"] for of in found.as_json()["partitions"]] == [3, None]


def test_a_partition_that_does_not_answer_makes_nothing_ok() -> None:
    """The lag of that partition is unknown."""
    found = GroupLag("g", 1.0, 1.0, 1, (), (TopicPartition("t", 0),))
    assert (found.state, found.eta_s) == (None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.04, "0.0 s"), (59.9, "59.9 s"), (90, "1.5 min"), (86_400 * 3, "3.0 d")],
)
def test_times_in_words(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


class Cluster:
    """Stand-in for a cluster in trouble, with given answers in their order."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self._client = self

    async def find_coordinator(self, group: str) -> int:
        """Return the only node."""
        return 1

    async def describe_topics(self) -> list[Any]:
        """Return a topic of three partitions, the last without a leader."""
        partitions = [
            {"partition": number, "leader": leader} for number, leader in enumerate((1, 1, -1))
        ]
        return [{"topic": "t", "error_code": 0, "partitions": partitions}]

    async def send(self, node: int, request: Any) -> Any:
        """Return the next answer."""
        return self._answers.pop(0)


def asker(*answers: Any) -> GroupAdmin:
    """Return a GroupAdmin of such a cluster."""
    admin: Any = Cluster(*answers)
    assert {name for name in dir(admin) if not name.startswith("_")} - {"send"} <= set(
        dir(AIOKafkaAdminClient)
    )
    return GroupAdmin(admin, "g")


def test_a_coordinator_that_is_coming_up_is_asked_again() -> None:
    """The error of a coordinator that loads is not taken for a group without commits."""
    late = SimpleNamespace(error_code=GroupLoadInProgressError.errno, topics=[])
    there = SimpleNamespace(error_code=0, topics=[("t", [(0, 7, "", 0), (1, -1, "", 0)])])
    assert asyncio.run(asker(late, there).committed()) == {TopicPartition("t", 0): 7}


def test_a_cluster_that_does_not_let_us_ask() -> None:
    no = SimpleNamespace(error_code=GroupAuthorizationFailedError.errno, topics=[])
    with pytest.raises(AccessError, match="allow to describe it") as raised:
        asyncio.run(asker(no).committed())
    assert raised.value.exit_code == 77


def test_where_no_leader_answers_there_is_no_offset() -> None:
    """The other partitions have their offsets."""

    async def run() -> dict[TopicPartition, int]:
        answer = SimpleNamespace(
            topics=[("t", [(0, 0, -1, 9), (1, NotLeaderForPartitionError.errno, -1, -1)])]
        )
        asking = asker(answer)
        return await asking.offsets(await asking.leaders(), "latest")

    assert asyncio.run(run()) == {TopicPartition("t", 0): 9}
