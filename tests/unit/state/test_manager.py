"""Tests of the state of assigned partitions: stores, memory, topic ids."""

from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP
from msgspec.structs import replace

from famulus.errors import ConfigError
from famulus.kafka.topic_ids import Topic, Topics
from famulus.state.changelog import PROCESSED, SourcePosition, decode_processed
from famulus.state.identity import ChangelogPartition, CommitNote, note_of
from famulus.state.manager import PartitionStateManager, StateSpec
from famulus.state.restore import Restorer
from famulus.state.rocksdb_store import StateFolder
from tests.support.in_memory.log import TOPIC, Log, Wire
from tests.support.in_memory.settling import MEMORY


async def test_only_what_has_a_store_shares_the_memory_of_stores(tmp_path: Path) -> None:
    """Partitions of a subscription without state get no part of it."""
    log: Any = Log()
    wire = Wire(log, [])
    remembered = {
        "kept": StateSpec(TOPIC, None, {}, {}),
        "not-kept": StateSpec(None, None, {}, {}),
    }
    state_manager = PartitionStateManager(
        remembered,
        StateFolder(tmp_path),
        MEMORY,
        log,
        wire,
        Restorer(log, wire, 24),
        1000,
        24,
        lambda _: None,
    )
    for kept in (0, 1):
        assigned = [
            *(TP("kept", n) for n in range(kept)),
            *(TP("not-kept", n) for n in range(9)),
            TP("plain", 0),
        ]
        assert await state_manager.acquire(assigned, [], lambda: True)
        assert state_manager.memory.stores == 1
        assert {tp.topic for tp in state_manager.held} == (
            {"kept", "not-kept"} if kept else {"not-kept"}
        )
    await state_manager.release()


KEPT, PLAIN = TP("kept", 0), TP("not-kept", 0)
AT = Topics(
    "cluster-1", {"kept": Topic("k", 1), "not-kept": Topic("n", 1), TOPIC: Topic("id-1", 1)}
)


class Cluster(Wire):
    """A connection to a cluster whose topics a test can change."""

    now = AT

    async def topics(self, names: Collection[str]) -> Topics:
        """Return the current topics."""
        return self.now

    def set(self, **topics: Topic | None) -> None:
        """Change topics; None deletes one."""
        of = {**self.now.of, **topics}
        self.now = Topics(
            self.now.cluster_id, {name: topic for name, topic in of.items() if topic is not None}
        )


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[Cluster, PartitionStateManager]]:
    """Yield the cluster and a manager of two partitions, one of which has state."""
    log: Any = Log()
    wire = Cluster(log, [])
    remembered = {
        "kept": StateSpec(TOPIC, None, {}, {}),
        "not-kept": StateSpec(None, None, {}, {}),
    }
    state_manager = PartitionStateManager(
        remembered,
        StateFolder(tmp_path),
        MEMORY,
        log,
        wire,
        Restorer(log, wire, 24),
        1000,
        24,
        lambda _: None,
    )
    assert await state_manager.acquire([KEPT, PLAIN], [], lambda: True)
    yield wire, state_manager
    await state_manager.release()


async def test_topics_that_become_others_under_a_worker_are_noticed(
    cluster: tuple[Cluster, PartitionStateManager],
) -> None:
    """A recreated topic without state is read from its beginning.

    A topic or changelog with state needs an operator's decision.
    """
    wire, state_manager = cluster
    assert await state_manager.look() == set()
    wire.set(**{"not-kept": Topic("another", 1)})
    assert await state_manager.look() == state_manager.anew == {"not-kept"}
    wire.now = AT
    wire.set(kept=Topic("another", 1))
    with pytest.raises(
        ConfigError, match=r"kept was deleted and made anew \(its id was k, now it is another\)"
    ):
        await state_manager.look()
    wire.now = AT
    wire.set(**{TOPIC: Topic("another", 1)})
    with pytest.raises(
        ConfigError, match=r"the changelog state was deleted and made anew; .*restore-changelog"
    ):
        await state_manager.look()
    wire.now = AT
    wire.set(**{TOPIC: None, "kept": None})
    assert await state_manager.look() == set()  # a broker that has just started may not know it yet
    with pytest.raises(ConfigError, match=r"the changelog state was deleted; .*restore-changelog"):
        await state_manager.look()


async def test_what_is_settled_and_committed_says_what_it_belongs_to(
    cluster: tuple[Cluster, PartitionStateManager],
) -> None:
    """An older position gets the ids once and keeps everything else."""
    _, state_manager = cluster
    assert note_of(state_manager.note(KEPT)) == CommitNote(
        "k", has_state=False
    )  # nothing is settled yet
    assert note_of(state_manager.note(PLAIN)) == CommitNote("n", has_state=False)
    assert state_manager.note(TP("a plain agent's", 0)) == ""
    assert state_manager.source_ids("kept") == ("cluster-1", "k")
    held = state_manager.held[KEPT]
    await state_manager.adopt()  # nothing is processed yet
    assert held.partition.processed is None
    held.partition.processed = before = SourcePosition(7, (1, 2), 3, 4, {"handled": 5}, "seek")
    await state_manager.adopt()
    store = held.partition.store
    assert store is not None
    raw = store.get(PROCESSED)
    assert raw is not None
    assert decode_processed(raw) == held.partition.processed
    home = ChangelogPartition("cluster-1", TOPIC, "id-1", 0)
    assert held.partition.processed == replace(before, home=home, source_id="k")
    assert note_of(state_manager.note(KEPT)) == CommitNote("k", has_state=True)
    position = store.position
    await state_manager.adopt()
    assert store.position == position


async def test_a_changelog_without_the_partition_is_refused_at_once(tmp_path: Path) -> None:
    """The worker does not wait for offsets that cannot exist."""
    log: Any = Log()
    wire = Cluster(log, [])
    wire.set(kept=Topic("k", 3))
    state_manager = PartitionStateManager(
        {"kept": StateSpec(TOPIC, None, {}, {})},
        StateFolder(tmp_path),
        MEMORY,
        log,
        wire,
        Restorer(log, wire, 24),
        1000,
        24,
        lambda _: None,
    )
    with pytest.raises(
        ConfigError,
        match="the source of state has 3 partitions, the state 1: the number was changed",
    ):
        await state_manager.acquire([TP("kept", 2)], [], lambda: True)
    wire.set(**{TOPIC: None})
    with pytest.raises(ConfigError, match="the changelog state is gone"):
        await state_manager.acquire([KEPT], [], lambda: True)
