"""Tests of executing a seek: the order of its steps, and a worker that dies in between."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from faust.types import TP

from famulus.consumer import seek_executor
from famulus.consumer.seek_executor import SeekExecutor
from famulus.control.seeks import SeekRequest, Seeks
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import SourcePosition
from famulus.state.failure_state import AttemptCount, FailureState, attempts_row
from famulus.state.manager import OwnedPartition
from famulus.state.partition_state import Checkpoint, PartitionState

AT = TP("t", 0)


class Cluster:
    """A substitute for the admin topic, the changelog and the group's commits.

    *steps* records the calls in order.
    """

    def __init__(self) -> None:
        self.seeks = Seeks()
        self.steps: list[str] = []
        self.commits = True
        self.tombstones: list[str] = []  # of another worker, not read yet
        self.settled: list[tuple[Checkpoint, SourcePosition]] = []

    def order(self, identity: str, offset: int) -> None:
        """Add an operator's seek request."""
        self.seeks.take(
            f"seek:t/0/{identity}", msgspec.json.encode(SeekRequest(offset, "ann", "now"))
        )

    async def catch_up(self) -> None:
        """Read the tombstones of the admin topic."""
        for key in self.tombstones:
            self.seeks.take(key, None)

    async def settle(self, group: Checkpoint, processed: SourcePosition, may_apply: Any) -> bool:
        """Record the checkpoint."""
        self.steps.append(f"settle {processed.next_offset} {processed.seek}")
        self.settled.append((group, processed))
        return bool(may_apply())

    async def send_together(self, records: Sequence[ProducerRecord]) -> None:
        """Record the tombstones of finished seeks."""
        assert all((record.topic, record.value) == ("g.admin", None) for record in records)
        self.steps.append("done " + " ".join((record.key or b"").decode() for record in records))

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        """Record the commit of the group, and return whether it works."""
        self.steps.append(f"commit {offsets[AT]}")
        return self.commits

    async def carry_out(
        self, partition: PartitionState, *, remembers: bool = True, span: tuple[int, int] = (0, 100)
    ) -> int:
        """Execute the seeks of an assignment, and return their number."""
        checkpointer: Any = self if remembers else None
        stand_in: Any = self
        held = {AT: OwnedPartition(partition, checkpointer)}
        worker = SeekExecutor(self.seeks, stand_in, stand_in, "g")
        orders = await worker.due(held)
        if orders:
            await worker.carry_out(orders, held, {AT: span}, self.commit)
        assert worker.is_due(AT) == (self.seeks.newest(*AT) is not None)
        return len(orders)


def partition(processed: SourcePosition | None = None) -> PartitionState:
    """Return the state of a partition with the position *processed*."""
    made = PartitionState(0, None, 1000)
    made.processed = processed
    return made


async def test_the_state_moves_before_the_commit_and_then_it_is_done() -> None:
    """The newest request counts, and the requests before it are finished with it."""
    cluster = Cluster()
    cluster.order("a", 5)
    cluster.order("b", 7)
    of = partition(SourcePosition(50, (1, 2), 1234, 5, {"handled": 50}, "old"))
    assert await cluster.carry_out(of) == 1
    assert cluster.steps == ["settle 7 b", "commit 7", "done seek:t/0/a seek:t/0/b"]
    assert of.processed is not None
    assert (of.processed.ahead, of.processed.stream_ms, of.processed.counts) == (
        (),
        1234,
        {"handled": 50},
    )
    assert await cluster.carry_out(of) == 0


async def test_what_the_state_knows_is_not_carried_out_again() -> None:
    """Its worker died before it wrote the tombstone.

    The commit follows the position that the partition has reached since.
    """
    cluster = Cluster()
    cluster.order("a", 5)
    await cluster.carry_out(partition(SourcePosition(9, seek="a")))
    assert cluster.steps == ["commit 9", "done seek:t/0/a"]


async def test_an_order_whose_commit_fails_stays_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next assignment goes on with it."""
    monkeypatch.setattr(seek_executor, "COMMIT_AGAIN_S", 0.0)
    cluster = Cluster()
    cluster.order("a", 5)
    cluster.commits = False
    of = partition(SourcePosition(50))
    await cluster.carry_out(of)
    assert cluster.steps == ["settle 5 a", *["commit 5"] * seek_executor.COMMIT_TRIES]
    cluster.commits = True
    cluster.steps.clear()
    await cluster.carry_out(of)
    assert cluster.steps == ["commit 5", "done seek:t/0/a"]


async def test_what_the_last_owner_did_a_moment_ago_is_not_done_again() -> None:
    """Without state, only the topic has this information."""
    cluster = Cluster()
    cluster.order("a", 5)
    cluster.tombstones = ["seek:t/0/a"]
    assert await cluster.carry_out(partition(), remembers=False) == 0
    assert cluster.steps == []


@pytest.mark.parametrize(("ordered", "goes_on_at"), [(5, 10), (50, 50), (500, 90)])
async def test_it_goes_on_within_the_log(ordered: int, goes_on_at: int) -> None:
    """The log may have lost records since the request."""
    cluster = Cluster()
    cluster.order("a", ordered)
    await cluster.carry_out(partition(), remembers=False, span=(10, 90))
    assert cluster.steps == [f"commit {goes_on_at}", "done seek:t/0/a"]


async def test_attempts_at_what_is_skipped_are_forgotten() -> None:
    """Attempts of later events still count."""
    cluster = Cluster()
    cluster.order("a", 5)
    of = partition(SourcePosition(3))
    rows = [attempts_row(offset, {"h": AttemptCount(1)}) for offset in (3, 5)]
    of.failure_state = FailureState([(key, value) for key, value in rows if value is not None])
    await cluster.carry_out(of)
    assert cluster.settled[0][0].rows == dict([attempts_row(3, None)])
    assert list(of.failure_state.attempts) == [5]
