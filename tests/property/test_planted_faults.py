"""Tests of the property of the state: an engine with a planted fault must fail it.

The scenarios are fixed by their seeds.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest

from famulus.processing.checkpoint_loop import CheckpointLoop
from famulus.processing.in_flight import InFlight
from famulus.processing.offset_tracker import PartitionOffsets
from famulus.processing.partition_processor import PartitionProcessor
from famulus.state.changelog import PACK, PROCESSED, SourcePosition, encode, epoch_headers, epoch_of
from famulus.state.checkpointer import Checkpointer, fill
from famulus.state.expiry import Expiry
from famulus.state.manager import PartitionStateManager
from famulus.state.partition_state import Checkpoint, Rows
from famulus.state.replica import Replica
from famulus.state.unit_of_work import UnitOfWork
from tests.support.in_memory.scenario import scenario
from tests.support.in_memory.verdict import judge

SEEDS = 30  # scenarios per test: all pass without a fault, and each fault fails at least one
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .Crew._work. was never awaited")
Fault = Callable[[pytest.MonkeyPatch], None]


async def settle_in_two(
    self: Checkpointer,
    group: Checkpoint,
    processed: SourcePosition,
    may_apply: Callable[[], bool],
    *,
    marks_first: bool,
) -> bool:
    """Write marks and effects each as their own batch and store write."""
    marks: Rows = dict(self._packed(group))
    effects: Rows = {**group.rows, PROCESSED: encode(processed)}
    for rows in (marks, effects) if marks_first else (effects, marks):
        self._probe("sending")
        sent = await self._sender.send_batch(
            self.topic, self.partition, rows.items(), self._headers
        )
        first = await sent
        self._probe("acknowledged")
        if not may_apply():
            return False
        last = first + len(rows) - 1
        if rows and first != self.store.position + 1:
            last = await self._find_out(rows)
        batch = self.store.batch()
        fill(batch, rows)
        if rows is marks:
            fill(batch, group.marks)
        if not await self._write(batch, last if rows else self.store.position, may_apply):
            return False
    return True


def marks_before_effects(patch: pytest.MonkeyPatch) -> None:
    """Settle the mark of an event before its effects: a kill in between loses them."""

    async def settle(self: Checkpointer, *of: Any) -> bool:
        return await settle_in_two(self, *of, marks_first=True)

    patch.setattr(Checkpointer, "settle", settle)


def marks_after_effects(patch: pytest.MonkeyPatch) -> None:
    """Settle the effects before the mark: after a kill in between, a duplicate takes effect."""

    async def settle(self: Checkpointer, *of: Any) -> bool:
        return await settle_in_two(self, *of, marks_first=False)

    patch.setattr(Checkpointer, "settle", settle)


def commit_before_settlement(patch: pytest.MonkeyPatch) -> None:
    """Commit records that are about to be settled."""
    settle_group = CheckpointLoop._settle_group

    async def too_early(self: CheckpointLoop, group: Checkpoint) -> bool:
        self.offset = self._in_flight.offsets.newest + 1
        return await settle_group(self, group)

    patch.setattr(CheckpointLoop, "_settle_group", too_early)


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    """Let a worker that lost the partition continue."""
    make = PartitionStateManager._checkpointer

    def unfenced(self: PartitionStateManager, *of: Any) -> Checkpointer:
        checkpointer = make(self, *of)
        checkpointer._is_fenced = False
        return checkpointer

    patch.setattr(PartitionStateManager, "_checkpointer", unfenced)


def no_epochs(patch: pytest.MonkeyPatch) -> None:
    """Restore records of workers that had lost the partition."""
    replay = Replica.replay

    def believe(self: Replica, records: Sequence[Any], position: int) -> None:
        epochs = accumulate((epoch_of(r.headers) for r in records), max, initial=self.store.epoch)
        believed = [
            replace(r, headers=epoch_headers(e))
            for r, e in zip(records, list(epochs)[1:], strict=True)
        ]
        replay(self, believed, position)

    patch.setattr(Replica, "replay", believe)


def repair_with_old_values(patch: pytest.MonkeyPatch) -> None:
    """Overwrite stale records with values from before the batch in flight."""
    repair = Checkpointer.repair

    async def old(self: Checkpointer, keys: Any, sent: Any = None) -> None:
        await repair(self, keys)

    patch.setattr(Checkpointer, "repair", old)


def built_again_after_a_failed_send(patch: pytest.MonkeyPatch) -> None:
    """Take a failed send for an unwritten one."""
    settle = Checkpointer.settle

    async def again(self: Checkpointer, *of: Any) -> bool:
        try:
            return await settle(self, *of)
        except OSError:
            return await settle(self, *of)

    patch.setattr(Checkpointer, "settle", again)


def rows_are_not_owned(patch: pytest.MonkeyPatch) -> None:
    """Let handlers that suspend read and write the same row."""

    def touch(self: UnitOfWork, key: bytes) -> None:
        self._touched = {**self._touched, key: None}

    patch.setattr(UnitOfWork, "touch", touch)


def one_too_far(patch: pytest.MonkeyPatch) -> None:
    """Move the processed row, and so the commit, one record too far."""
    processed = InFlight.processed

    def wrong(self: InFlight, now_ms: int, counts: Mapping[str, int]) -> SourcePosition:
        found = processed(self, now_ms, counts)
        return SourcePosition(found.next_offset + 1, (), found.stream_ms, found.at_ms, found.counts)

    patch.setattr(InFlight, "processed", wrong)


def one_too_many_ahead(patch: pytest.MonkeyPatch) -> None:
    """Count a record in flight as settled in the processed row, because those before it are."""
    ahead = PartitionOffsets.ahead

    def wrong(self: PartitionOffsets) -> Iterator[tuple[int, int]]:
        return ((start, end + 1) for start, end in ahead(self))

    patch.setattr(PartitionOffsets, "ahead", wrong)


def dropped_duplicates_marks(patch: pytest.MonkeyPatch) -> None:
    """Forget packs whose marks are still needed."""
    packs = Expiry.packs

    def too_early(self: Expiry, stream_ms: int) -> dict[bytes, bytes]:
        self._oldest_period = None
        return packs(self, stream_ms) or dict(list(self._store.items(PACK))[:1])

    patch.setattr(Expiry, "packs", too_early)


def committed_one_too_far(patch: pytest.MonkeyPatch) -> None:
    """Commit a record in flight of a subscription without state."""

    def wrong(self: PartitionProcessor) -> int | None:
        right = self.offsets.next_offset
        return right if right is None or right > self.offsets.newest else right + 1

    patch.setattr(PartitionProcessor, "checkpointed_offset", property(wrong))


def is_caught(seed: int, *, remembers: bool = True) -> bool:
    """Return True if one of the scenarios from *seed* on fails."""
    for number in range(seed, seed + SEEDS):
        try:
            judge(scenario(random.Random(number), remembers=remembers))
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize(
    ("fault", "seed"),
    [
        (marks_before_effects, 0),
        (marks_after_effects, 10),
        (commit_before_settlement, 0),
        (no_fencing, 0),
        (no_epochs, 0),
        (repair_with_old_values, 290),
        (built_again_after_a_failed_send, 350),
        (rows_are_not_owned, 0),
        (one_too_far, 0),
        (one_too_many_ahead, 0),
        (dropped_duplicates_marks, 0),
    ],
)
def test_a_fault_of_the_state_is_caught(
    fault: Fault, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    assert is_caught(seed)


@pytest.mark.parametrize("seed", [0, 30, 290, 350])
def test_without_a_fault_nothing_is_caught(seed: int) -> None:
    """These are the scenarios of the faults."""
    assert not is_caught(seed)


def test_a_fault_without_state_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without state, only the commit decides where the next worker starts."""
    committed_one_too_far(monkeypatch)
    assert is_caught(10, remembers=False)
