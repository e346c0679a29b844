"""The group commit: the order of its steps, who is fenced, what is overruled, what is forgotten."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.state import commit
from app.state.changelog import MARK, PACK, Mark, epoch_headers, row_key
from app.state.commit import FencedError
from app.state.dedupe import Dedupe
from app.state.store import Store, StoreError
from app.state.windows import Window, in_window
from tests.stand_ins.log import Log, Sending, fold
from tests.stand_ins.settling import Desk

A, B = row_key("t", b"a"), row_key("t", b"b")
ONE, TWO = b"1" * 16, b"2" * 16  # digests


async def test_a_group_is_one_batch_and_then_one_write(tmp_path: Path) -> None:
    """The store is untouched until the batch is acknowledged; then both say the same."""
    desk = await Desk(tmp_path / "s", sendings=[Sending(after=3)], dedupe=Dedupe(80)).claim()
    before = desk.log.end
    settling = asyncio.create_task(desk.settle({A: b"1", B: None}, {ONE: Mark(5, 6)}))
    for _ in range(3):  # it is in the log, and nobody has said so
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
    """Nobody knows whether the log has it; whoever restores next learns it there."""
    desk = await Desk(tmp_path / "s", sendings=[Sending(fails=fails)]).claim()
    with pytest.raises(OSError, match=r"the broker is away|no answer"):
        await desk.settle({A: b"1"})
    assert desk.kept.rows == {}
    desk.store.close()
    await asyncio.sleep(0)
    again = await Desk(tmp_path / "s", desk.log).claim()
    assert again.kept.rows == ({} if fails == "before" else {A: b"1"})


async def test_what_was_taken_away_meanwhile_is_not_written(tmp_path: Path) -> None:
    """The log has it, so the next owner does."""
    desk = await Desk(tmp_path / "s").claim()
    assert not await desk.settle({A: b"1"}, may_apply=False)
    assert (desk.kept.rows, fold(desk.log).rows) == ({}, {A: b"1"})


async def test_a_claim_in_between_fences(tmp_path: Path) -> None:
    """Nothing is written, although the batch was acknowledged; a claim that was beaten fences nobody."""
    desk = await Desk(tmp_path / "s").claim()
    desk.claimed_by_other(1)
    assert await desk.settle({A: b"1"})
    desk.claimed_by_other(2)
    with pytest.raises(FencedError, match="claimed by other:1"):
        await desk.settle({A: b"2"})
    assert desk.kept.rows == {A: b"1"}
    assert fold(desk.log).rows == {A: b"1"}


async def test_what_a_worker_without_a_claim_wrote_is_overruled(tmp_path: Path) -> None:
    """With what we know, which is newest in the batch in hand; compaction would keep the stale value otherwise."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1", B: b"1"})
    desk.log.append([(A, b"stale"), (B, b"stale"), (row_key("t", b"c"), b"stale")], epoch_headers(0))
    assert await desk.settle({A: b"2"})
    assert desk.kept.rows == fold(desk.log).rows == {A: b"2", B: b"1"}
    newest = {entry.key: (entry.value, entry.headers) for entry in desk.log.entries}
    assert newest[A] == (b"2", epoch_headers(1))
    assert newest[row_key("t", b"c")] == (None, epoch_headers(1))
    assert await desk.settle({A: b"3"})  # our own records in between are no reason to do it again
    desk.log.compact()
    rebuilt = await Desk(tmp_path / "other", desk.log).claim()
    assert rebuilt.kept.rows == {A: b"3", B: b"1"}


async def test_what_was_written_while_nobody_looked_is_overruled_at_the_start(tmp_path: Path) -> None:
    """Once."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.log.append([(A, b"stale")], epoch_headers(0))
    desk.store.close()
    again = await Desk(tmp_path / "s", desk.log).claim()
    assert again.replica.stale == 1
    assert (again.log.entries[-1].key, again.log.entries[-1].value) == (A, b"1")
    end = again.log.end
    await again.settler.start()
    assert again.log.end == end


async def test_packs_are_forgotten_with_their_marks(tmp_path: Path) -> None:
    """By the stream's time; an id that was seen again meanwhile, or just now, keeps its mark."""
    desk = await Desk(tmp_path / "s", dedupe=Dedupe(800)).claim()
    await desk.settle({}, {ONE: Mark(5, 0), TWO: Mark(6, 1), b"3" * 16: Mark(7, 2)}, 7)
    await desk.settle({}, {TWO: Mark(850, 3)}, 900)
    assert set(desk.kept.marks) == {ONE, TWO, b"3" * 16}
    await desk.settle({}, {}, 900)
    assert len(list(desk.store.items(PACK))) == 2
    await desk.settle({}, {b"3" * 16: Mark(908, 4)}, 908)
    assert desk.kept.marks == {TWO: (850, 3), b"3" * 16: (908, 4)}
    assert desk.kept == fold(desk.log)
    assert [e.value for e in desk.log.entries if e.key[:1] == PACK][-1] is None
    rebuilt = await Desk(tmp_path / "other", desk.log).claim()
    assert rebuilt.kept == desk.kept


async def test_rows_of_closed_windows_are_removed(tmp_path: Path) -> None:
    """In the log as in the store, and those of other tables are not."""
    prefix = row_key("w")
    desk = await Desk(tmp_path / "s", windows={prefix: Window(10, 10, 5)}).claim()
    rows: Any = {prefix + in_window(start, b"k"): b"1" for start in (0, 10, 20)}
    await desk.settle({**rows, A: b"1"}, stream_ms=14)
    assert await desk.settle({}, stream_ms=14)
    assert len(desk.kept.rows) == 4
    assert await desk.settle({}, stream_ms=15)
    assert set(desk.kept.rows) == {A, *list(rows)[1:]}
    assert await desk.settle({}, stream_ms=100)
    assert set(desk.kept.rows) == set(fold(desk.log).rows) == {A}


async def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as settled before the disk has it."""
    desk = await Desk(tmp_path / "s").claim()
    monkeypatch.setattr(commit, "RETRY_S", 0.0)
    write, left = Store.write, [1, 2]

    def full(self: Store, *of: Any) -> None:
        if left:
            left.pop()
            raise StoreError("No space left on device")
        write(self, *of)

    monkeypatch.setattr(Store, "write", full)
    assert await desk.settle({A: b"1"})
    assert (left, desk.kept.rows) == ([], {A: b"1"})
    assert desk.steps.count("sending") == 1


async def test_marks_have_their_own_place_in_the_store(tmp_path: Path) -> None:
    """By digest; without dedupe there are none."""
    desk = await Desk(tmp_path / "s", Log()).claim()
    await desk.settle({A: b"1"}, {ONE: Mark(1, 2)})
    assert not [entry for entry in desk.log.entries if entry.key[:1] == PACK]
    assert not list(desk.store.items(PACK))
    assert desk.store.get(MARK + TWO) is None
