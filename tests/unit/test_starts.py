"""Where reading begins: by the state, else the commit, else the settings."""

from collections.abc import Collection, Mapping

import pytest
from faust.types import TP

from app.errors import ConfigError
from app.storage.changelog import Processed
from app.worker.starts import Found, Known, starts

PLACE, OTHER, NEW = TP("orders", 0), TP("orders", 1), TP("orders", 2)


class Cluster:
    """Partitions whose logs reach from 100 to 200; *asked* says of which ends somebody wanted to know.

    The topic has three partitions, and the group has committed *committed*.
    """

    def __init__(self, committed: Mapping[TP, int] | None = None) -> None:
        self.asked: list[str] = []
        self.committed = committed or {}

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        """Where they begin."""
        self.asked += ["begin"] * len(partitions)
        return dict.fromkeys(partitions, 100)

    async def highwaters(self, *partitions: TP) -> dict[TP, int]:
        """Where they end."""
        self.asked += ["end"] * len(partitions)
        return dict.fromkeys(partitions, 200)

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Those of the one topic."""
        assert set(topics) == {PLACE.topic}
        return {PLACE, OTHER, NEW}

    async def commits(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """What is committed of them."""
        return {tp: offset for tp, offset in self.committed.items() if tp in partitions}


@pytest.mark.parametrize("is_earliest", [True, False])
@pytest.mark.parametrize(
    ("known", "found", "gone"),
    [
        (Known(Processed(150), 150, 150), {PLACE: 150}, {}),  # the state is the truth
        (Known(Processed(150), 120, 120), {PLACE: 150}, {}),  # and a commit was lost
        (Known(Processed(150), None, None), {PLACE: 150}, {}),
        (Known(Processed(20), 20, 20), {PLACE: 100}, {PLACE: 80}),  # what was between is gone
        (Known(None, 120, 120), {}, {}),  # Faust reads on where the group has committed
        (Known(None, 20, 20), {PLACE: 100}, {PLACE: 80}),
        (Known(None, 0, 0), {PLACE: 100}, {PLACE: 100}),
    ],
)
async def test_what_is_known_of_a_partition_decides_whatever_the_setting_says(
    known: Known, found: dict[TP, int], gone: dict[TP, int], *, is_earliest: bool
) -> None:
    """Retention that has overtaken the group costs what is deleted, never what is still there."""
    cluster = Cluster()
    assert await starts({PLACE: known}, cluster, "ignore", is_earliest=is_earliest) == Found(found, gone)
    assert set(cluster.asked) <= {"begin", "end"}


async def test_a_commit_of_0_is_set_where_the_log_begins_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where aiokafka would not move."""

    async def begins(_: Cluster, *partitions: TP) -> dict[TP, int]:
        return dict.fromkeys(partitions, 0)

    monkeypatch.setattr(Cluster, "earliest_offsets", begins)
    assert await starts({PLACE: Known(None, None, 0)}, Cluster(), "ignore", is_earliest=False) == Found({PLACE: 0})


UNKNOWN = Known(None, None, None)


async def test_a_topic_that_the_group_knows_nothing_of_begins_as_the_setting_says() -> None:
    """At its end all of it is to be committed at once, what others have included."""
    assert await starts({PLACE: UNKNOWN}, Cluster(), "ignore", is_earliest=True) == Found({PLACE: 100})
    fresh = dict.fromkeys((PLACE, OTHER, NEW), 200)
    assert await starts({PLACE: UNKNOWN}, Cluster(), "ignore", is_earliest=False) == Found({PLACE: 200}, fresh=fresh)


@pytest.mark.parametrize("is_earliest", [True, False])
async def test_a_new_partition_of_a_known_topic_begins_with_its_log(*, is_earliest: bool) -> None:
    """The group has committed other ones of it, or this worker has the state of one."""
    committed = Cluster({PLACE: 150, OTHER: 150})
    found = await starts({NEW: UNKNOWN}, committed, "ignore", is_earliest=is_earliest)
    assert found == Found({NEW: 100})
    known = {PLACE: Known(Processed(150), None, None), NEW: UNKNOWN}
    found = await starts(known, Cluster(), "ignore", is_earliest=is_earliest)
    assert found == Found({PLACE: 150, NEW: 100})


async def test_who_comes_second_begins_where_the_first_worker_says() -> None:
    """Two workers that start together must not take each other's first commit for a sign of new partitions."""
    first = await starts({PLACE: UNKNOWN}, Cluster(), "ignore", is_earliest=False)
    found = await starts({OTHER: UNKNOWN}, Cluster(first.fresh | {OTHER: 195}), "ignore", is_earliest=False)
    assert found == Found({OTHER: 195})


async def test_a_state_of_another_topic_is_refused() -> None:
    """With the cure."""
    with pytest.raises(ConfigError, match=r"orders-0: .*the topic ends at 200.*state replay --topic orders"):
        await starts({PLACE: Known(Processed(201), 150, 150)}, Cluster(), "ignore", is_earliest=True)
