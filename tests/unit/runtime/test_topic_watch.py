"""The topics that a worker stands on: what a look makes of those that were deleted, and of partitions that came."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pytest
from faust.types import TP

from famulus.errors import ConfigError, InvariantError, UnavailableError
from famulus.runtime.topic_watch import Needs, Topics
from tests.support.in_memory.clock import Clock

ROWS = Needs("rows", "rows.dead-letter", ["rows.g.redrive"], "g-rows-state", may_grow=False)
MARKS = Needs(
    "marks",
    "marks.dead-letter",
    ["marks.g.redrive", "marks.g.retry-1"],
    "g-marks-state",
    may_grow=True,
)
PLAIN = Needs("plain", "plain.dead-letter", [], None, may_grow=True)


@dataclass
class Cluster:
    """Stands for the cluster: *there* says how many partitions each topic has.

    *lost*: answers that say less.
    """

    there: dict[str, int] = field(default_factory=dict)
    is_away: bool = False
    lost: list[str] = field(default_factory=list)
    grown: list[tuple[Mapping[str, int], Mapping[str, int]]] = field(default_factory=list)
    refreshes: int = 0
    error: Exception | None = None

    def topics(self, *needs: Needs) -> Topics:
        """A worker's look at it; every topic of *needs* is there, with two partitions."""
        for of in needs:
            names = [of.source, of.letters, *of.back, *([of.state] if of.state else [])]
            self.there |= dict.fromkeys(names, 2)
        return Topics(
            needs,
            dict(self.there),
            self.count,
            grow=self.grow,
            refresh=self.refresh,
            folder="data/state",
        )

    async def count(self, topics: Collection[str]) -> dict[str, int] | None:
        """Answer, as a broker does."""
        lost = {self.lost.pop()} if self.lost else set()
        return (
            None
            if self.is_away
            else {name: self.there.get(name, 0) * (name not in lost) for name in topics}
        )

    async def grow(self, states: Mapping[str, int], back: Mapping[str, int]) -> None:
        """Add partitions."""
        if self.error is not None:
            raise self.error
        self.grown.append((states, back))
        self.there |= {**states, **back}

    def refresh(self) -> None:
        """Count that the consumer was told."""
        self.refreshes += 1


@pytest.fixture(autouse=True)
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """No look waits."""
    return Clock(monkeypatch)


async def found(topics: Topics) -> list[tuple[str, str, bool]]:
    """What a look finds."""
    return [(of.name, of.subject, of.is_red) for of in await topics.look() or ()]


async def test_partitions_that_were_added_are_taken_on() -> None:
    """The topics of the group's own have as many before the consumer hears of it."""
    cluster = Cluster()
    topics = cluster.topics(MARKS, PLAIN)
    assert (await found(topics), cluster.refreshes) == ([], 0)
    cluster.there |= {"marks": 4, "plain": 3}
    assert await found(topics) == []
    assert cluster.grown == [({"g-marks-state": 4}, {"marks.g.redrive": 4, "marks.g.retry-1": 4})]
    assert cluster.refreshes == 2
    assert (await found(topics), cluster.refreshes, len(cluster.grown)) == ([], 2, 1)


async def test_partitions_whose_keys_have_rows_elsewhere_end_the_worker_at_once() -> None:
    """With the cure; nothing of the group's is changed."""
    cluster = Cluster()
    topics = cluster.topics(ROWS)
    cluster.there["rows"] = 4
    [condition] = await topics.look() or []
    assert (condition.name, condition.ends_after_s) == ("partitions-added", 0.0)
    assert "state export" in condition.why
    assert (cluster.grown, cluster.refreshes) == ([], 0)


async def test_an_assignment_of_partitions_that_are_new_waits_until_their_topics_have_them() -> (
    None
):
    """The group's leader may hear of them before any look does."""
    cluster = Cluster()
    topics = cluster.topics(MARKS)
    await topics.fit([TP("marks", 1), TP("of others", 7)])
    assert cluster.grown == []
    cluster.there["marks"] = 4
    await topics.fit([TP("marks", 3)])
    assert cluster.there["g-marks-state"] == 4
    cluster = Cluster()
    topics = cluster.topics(ROWS)
    cluster.there["rows"] = 4
    with pytest.raises(ConfigError, match="import --replace"):
        await topics.fit([TP("rows", 3)])


async def test_a_source_that_was_deleted_is_told_of_until_it_is_there_again() -> None:
    """The worker goes on with the others, and the consumer hears of both."""
    cluster = Cluster()
    topics = cluster.topics(MARKS, PLAIN)
    del cluster.there["plain"]
    assert await found(topics) == [("topic-missing", "plain", True)]
    assert cluster.refreshes == 1
    assert (await found(topics), cluster.refreshes) == ([("topic-missing", "plain", True)], 1)
    cluster.there["plain"] = 2
    assert (await found(topics), cluster.refreshes) == ([], 2)


async def test_a_topic_of_the_groups_own_that_was_deleted_is_made_anew() -> None:
    """As a start makes it; dead letters are of nobody's own, and only told of."""
    cluster = Cluster()
    topics = cluster.topics(ROWS)
    del cluster.there["rows.g.redrive"], cluster.there["rows.dead-letter"]
    assert await found(topics) == [("topic-missing", "rows.dead-letter", False)]
    assert cluster.grown == [({}, {"rows.g.redrive": 2})]


async def test_a_retry_topic_that_nobody_sends_to_any_more_is_not_made_anew() -> None:
    """Somebody deletes it when it is empty; until then it gets as many partitions as its source has."""
    cluster = Cluster()
    topics = cluster.topics(MARKS._replace(retired=["marks.g.retry-1"]))
    cluster.there |= {"marks": 3, "marks.g.redrive": 3, "g-marks-state": 3}
    assert await found(topics) == []
    assert cluster.grown == [({}, {"marks.g.retry-1": 3})]
    del cluster.there["marks.g.retry-1"]
    assert (await found(topics), len(cluster.grown)) == ([], 1)


async def test_a_changelog_that_was_deleted_ends_the_worker_and_the_store_is_kept() -> None:
    """It is the only copy by then, and is not made anew, empty, beside it."""
    cluster = Cluster()
    topics = cluster.topics(MARKS)
    del cluster.there["g-marks-state"]
    [condition] = await topics.look() or []
    assert (condition.name, condition.ends_after_s) == ("state-missing", 0.0)
    assert "data/state is kept" in condition.why
    assert cluster.grown == []


async def test_one_answer_that_a_topic_is_missing_is_not_believed(clock: Clock) -> None:
    """A broker that is just starting says so, and then says something else."""
    cluster = Cluster()
    topics = cluster.topics(MARKS)
    cluster.lost = ["g-marks-state", "g-marks-state"]
    assert await found(topics) == []
    assert clock.passed_s == 3.0


async def test_a_cluster_that_is_away_changes_nothing() -> None:
    """Nor does one that lets nothing be grown now; one that never will ends the worker in its words."""
    cluster = Cluster()
    topics = cluster.topics(MARKS)
    cluster.is_away = True
    assert await topics.look() is None
    cluster.is_away, cluster.error = False, UnavailableError("away")
    cluster.there["marks"] = 4
    assert await topics.look() is None
    cluster.error = InvariantError("no")
    with pytest.raises(InvariantError):
        await topics.look()
    cluster.error = None
    assert (await found(topics), cluster.there["g-marks-state"]) == ([], 4)
