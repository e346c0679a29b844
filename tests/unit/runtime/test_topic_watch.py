"""Tests of the watch on a worker's topics: deleted topics and added partitions."""

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
    """Stand-in for the cluster: *there* has the number of partitions of each topic.

    *lost* has topics that are missing in one answer each.
    """

    there: dict[str, int] = field(default_factory=dict)
    is_away: bool = False
    lost: list[str] = field(default_factory=list)
    grown: list[tuple[Mapping[str, int], Mapping[str, int]]] = field(default_factory=list)
    refreshes: int = 0
    error: Exception | None = None

    def topics(self, *needs: Needs) -> Topics:
        """Return the watch of a worker; all topics of *needs* exist with two partitions."""
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
        """Return the numbers of partitions, as a broker does."""
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
        """Count a refresh of the consumer's metadata."""
        self.refreshes += 1


@pytest.fixture(autouse=True)
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a virtual clock, so that no check waits."""
    return Clock(monkeypatch)


async def found(topics: Topics) -> list[tuple[str, str, bool]]:
    """Return the conditions that a check finds."""
    return [(of.name, of.subject, of.is_red) for of in await topics.look() or ()]


async def test_partitions_that_were_added_are_taken_on() -> None:
    """The group's own topics get their partitions before the consumer refreshes."""
    cluster = Cluster()
    topics = cluster.topics(MARKS, PLAIN)
    assert (await found(topics), cluster.refreshes) == ([], 0)
    cluster.there |= {"marks": 4, "plain": 3}
    assert await found(topics) == []
    assert cluster.grown == [({"g-marks-state": 4}, {"marks.g.redrive": 4, "marks.g.retry-1": 4})]
    assert cluster.refreshes == 2
    assert (await found(topics), cluster.refreshes, len(cluster.grown)) == ([], 2, 1)


async def test_partitions_whose_keys_have_rows_elsewhere_end_the_worker_at_once() -> None:
    """The error names the remedy, and no topic of the group is changed."""
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
    """The leader of the group may learn of them before any check does."""
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
    """The worker continues with its other topics, and the consumer refreshes both times."""
    cluster = Cluster()
    topics = cluster.topics(MARKS, PLAIN)
    del cluster.there["plain"]
    assert await found(topics) == [("topic-missing", "plain", True)]
    assert cluster.refreshes == 1
    assert (await found(topics), cluster.refreshes) == ([("topic-missing", "plain", True)], 1)
    cluster.there["plain"] = 2
    assert (await found(topics), cluster.refreshes) == ([], 2)


async def test_a_topic_of_the_groups_own_that_was_deleted_is_made_anew() -> None:
    """A start creates it alike; a dead letter topic may be shared, and is only reported."""
    cluster = Cluster()
    topics = cluster.topics(ROWS)
    del cluster.there["rows.g.redrive"], cluster.there["rows.dead-letter"]
    assert await found(topics) == [("topic-missing", "rows.dead-letter", False)]
    assert cluster.grown == [({}, {"rows.g.redrive": 2})]


async def test_a_retry_topic_that_nobody_sends_to_any_more_is_not_made_anew() -> None:
    """An operator deletes it when it is empty; until then it grows with its source."""
    cluster = Cluster()
    topics = cluster.topics(MARKS._replace(retired=["marks.g.retry-1"]))
    cluster.there |= {"marks": 3, "marks.g.redrive": 3, "g-marks-state": 3}
    assert await found(topics) == []
    assert cluster.grown == [({}, {"marks.g.retry-1": 3})]
    del cluster.there["marks.g.retry-1"]
    assert (await found(topics), len(cluster.grown)) == ([], 1)


async def test_a_changelog_that_was_deleted_ends_the_worker_and_the_store_is_kept() -> None:
    """The store is the only copy then, so no empty changelog is created beside it."""
    cluster = Cluster()
    topics = cluster.topics(MARKS)
    del cluster.there["g-marks-state"]
    [condition] = await topics.look() or []
    assert (condition.name, condition.ends_after_s) == ("state-missing", 0.0)
    assert "data/state is kept" in condition.why
    assert cluster.grown == []


async def test_one_answer_that_a_topic_is_missing_is_not_believed(clock: Clock) -> None:
    """A broker that is starting gives such answers."""
    cluster = Cluster()
    topics = cluster.topics(MARKS)
    cluster.lost = ["g-marks-state", "g-marks-state"]
    assert await found(topics) == []
    assert clock.passed_s == 3.0


async def test_a_cluster_that_is_away_changes_nothing() -> None:
    """A temporary error while topics grow is no fault; a permanent one ends the worker."""
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
