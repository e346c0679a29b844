"""Tests of the checkpointer: the order of its steps, fencing, and stale records."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from famulus.state.changelog import BATCH_BYTES, MARK, PACK, SeenMark, epoch_headers, row_key
from famulus.state.checkpointer import FencedError
from famulus.state.dedupe import Dedupe
from famulus.state.rocksdb_store import STALE
from tests.support.in_memory.log import Log, Sending, fold
from tests.support.in_memory.settling import Desk

A, B = row_key("t", b"a"), row_key("t", b"b")
ONE, TWO = (MARK + digit * 16 for digit in (b"1", b"2"))


async def test_a_group_is_one_batch_and_then_one_write(tmp_path: Path) -> None:
    """The store is unchanged until the batch is acknowledged.

    Afterwards the log and the store agree.
    """
    desk = await Desk(tmp_path / "s", sendings=[Sending(after=3)], dedupe=Dedupe(80)).claim()
    before = desk.log.end
    settling = asyncio.create_task(desk.settle({A: b"1", B: None}, {ONE: SeenMark(5, 6)}))
    for _ in range(3):  # the batch is in the log, but not acknowledged
        await asyncio.sleep(0)
    assert desk.log.end > before
    assert desk.kept.rows == {}
    assert desk.steps == ["sending", "sent"]
    assert await settling
    assert desk.steps == ["sending", "sent", "acknowledged", "written"]
    assert desk.kept == fold(desk.log)
    assert (desk.kept.rows, desk.kept.marks) == ({A: b"1"}, {ONE: (5, 6)})
    assert desk.store.position == desk.log.end - 1
    assert {entry.headers[0] for entry in desk.log.entries[before:]} == {epoch_headers(1)[0]}


@pytest.mark.parametrize("fails", ["before", "after", "late"])
async def test_a_send_that_failed_leaves_the_store_alone(tmp_path: Path, fails: str) -> None:
    """The log may or may not have the batch, and the next restore finds out."""
    desk = await Desk(tmp_path / "s", sendings=[Sending(fails=fails)]).claim()
    with pytest.raises(OSError, match=r"the broker is away|no answer"):
        await desk.settle({A: b"1"})
    assert desk.kept.rows == {}
    desk.store.close()
    await asyncio.sleep(0)
    again = await Desk(tmp_path / "s", desk.log).claim()
    assert again.kept.rows == ({} if fails == "before" else {A: b"1"})


async def test_what_was_taken_away_meanwhile_is_not_written(tmp_path: Path) -> None:
    """The log has the batch, so that the next owner has it too."""
    desk = await Desk(tmp_path / "s").claim()
    assert not await desk.settle({A: b"1"}, may_apply=False)
    assert (desk.kept.rows, fold(desk.log).rows) == ({}, {A: b"1"})


async def test_a_claim_in_between_fences(tmp_path: Path) -> None:
    """Nothing is written to the store although the batch was acknowledged.

    A claim that lost fences no worker.
    """
    desk = await Desk(tmp_path / "s").claim()
    desk.claimed_by_other(1)
    assert await desk.settle({A: b"1"})
    desk.claimed_by_other(2)
    with pytest.raises(FencedError, match="claimed by other:1"):
        await desk.settle({A: b"2"})
    assert desk.kept.rows == {A: b"1"}
    assert fold(desk.log).rows == {A: b"1"}


async def test_what_a_worker_without_a_claim_wrote_is_overruled(tmp_path: Path) -> None:
    """The current values are written again, those of the open batch included.

    Otherwise compaction would keep the stale value.
    """
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1", B: b"1"})
    desk.log.append(
        [(A, b"stale"), (B, b"stale"), (row_key("t", b"c"), b"stale")], epoch_headers(0)
    )
    assert await desk.settle({A: b"2"})
    assert desk.kept.rows == fold(desk.log).rows == {A: b"2", B: b"1"}
    newest = {entry.key: (entry.value, entry.headers) for entry in desk.log.entries}
    assert newest[A] == (b"2", epoch_headers(1))
    assert newest[row_key("t", b"c")] == (None, epoch_headers(1))
    assert await desk.settle({A: b"3"})  # its own records cause no repeat
    desk.log.compact()
    rebuilt = await Desk(tmp_path / "other", desk.log).claim()
    assert rebuilt.kept.rows == {A: b"3", B: b"1"}


async def test_what_was_written_while_nobody_looked_is_overruled_at_the_start(
    tmp_path: Path,
) -> None:
    """A second start writes nothing."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.log.append([(A, b"stale")], epoch_headers(0))
    desk.store.close()
    again = await Desk(tmp_path / "s", desk.log).claim()
    assert again.replica.stale == 1
    assert (again.log.entries[-1].key, again.log.entries[-1].value) == (A, b"1")
    end = again.log.end
    await again.checkpointer.start()
    assert again.log.end == end


async def test_what_is_overruled_goes_in_slices_that_fit_one_batch(tmp_path: Path) -> None:
    """A foreign producer may have written many rows.

    The test covers the start and a running worker.
    """
    rows: Any = {row_key("t", b"%d" % n): b"x" * 10_000 for n in range(250)}
    large = row_key("t", b"large")
    desk = await Desk(tmp_path / "s").claim()
    for at in range(0, 250, 50):
        await desk.settle(dict(list(rows.items())[at : at + 50]))
    await desk.settle({large: b"x" * (BATCH_BYTES - 200)})
    for again in range(2):
        desk.wire.batches.clear()
        desk.log.append([(key, b"stale") for key in (large, *rows)], epoch_headers(0))
        if again:
            desk.store.close()
            desk = await Desk(tmp_path / "s", desk.log).claim()
        else:
            assert await desk.settle({A: b"1"})
        assert len(desk.wire.batches) >= 4
        assert desk.largest_batch <= BATCH_BYTES
        assert (
            desk.kept.rows
            == fold(desk.log).rows
            == {**rows, large: b"x" * (BATCH_BYTES - 200), A: b"1"}
        )
    assert list(desk.store.items(STALE)) == []


async def test_marks_have_their_own_place_in_the_store(tmp_path: Path) -> None:
    """Without dedupe the log has no marks."""
    desk = await Desk(tmp_path / "s", Log()).claim()
    await desk.settle({A: b"1"}, {ONE: SeenMark(1, 2)})
    assert not [entry for entry in desk.log.entries if entry.key[:1] == PACK]
    assert not list(desk.store.items(PACK))
    assert desk.store.get(TWO) is None
    assert desk.kept.marks == {ONE: (1, 2)}
