"""The group commit: the order of its steps, who is fenced, what is overruled, what is forgotten."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvariantError
from app.state import commit
from app.state.changelog import MARK, PACK, Mark, Processed, epoch_headers, row_key
from app.state.commit import FencedError
from app.state.dedupe import Dedupe
from app.state.partition import Partition
from app.state.store import Store, StoreError
from app.state.windows import Window, in_window
from tests.stand_ins.log import Log, Sending, fold
from tests.stand_ins.settling import Desk

A, B = row_key("t", b"a"), row_key("t", b"b")
ONE, TWO, THREE = (MARK + digit * 16 for digit in (b"1", b"2", b"3"))


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
    await desk.settle({}, {ONE: Mark(5, 0), TWO: Mark(6, 1), THREE: Mark(7, 2)}, 7)
    await desk.settle({}, {TWO: Mark(850, 3)}, 900)
    assert set(desk.kept.marks) == {ONE, TWO, THREE}
    await desk.settle({}, {}, 900)
    assert len(list(desk.store.items(PACK))) == 2
    await desk.settle({}, {THREE: Mark(908, 4)}, 908)
    assert desk.kept.marks == {TWO: (850, 3), THREE: (908, 4)}
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


async def test_rows_of_closed_windows_are_not_read_any_more(tmp_path: Path) -> None:
    """Not from what is kept in memory of rows that were settled lately either."""
    prefix = row_key("w")
    row = prefix + in_window(0, b"k")
    desk = await Desk(tmp_path / "s", windows={prefix: Window(10, 10, 5)}).claim()
    partition = Partition(0, desk.store, 10_000)
    for stream_ms, key in ((0, row), (14, A), (15, A)):
        partition.filling.rows[key] = b"1"
        partition.filling.ended.append((0, "handled"))
        group = partition.next_to_settle()
        assert group is not None
        assert await desk.settler.settle(group, Processed(1, stream_ms=stream_ms), lambda: True)
        assert partition.row(row) == desk.store.get(row) == (b"1" if stream_ms < 15 else None)
        partition.settled(None)
        assert partition.row(row) == (b"1" if stream_ms < 15 else None)


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


class Full:
    """A disk that takes nothing, and while *is_shut* not even lets a store be opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full, self.is_shut, self.writes = True, False, 0
        write, opened = Store.write, Store.open

        def try_write(store: Store, *of: Any) -> None:
            self.writes += 1
            if self.is_full:
                raise StoreError("No space left on device")
            write(store, *of)

        def try_open(store: Store) -> None:
            if self.is_shut:
                raise StoreError("No space left on device")
            opened(store)

        monkeypatch.setattr(Store, "write", try_write)
        monkeypatch.setattr(Store, "open", try_open)
        monkeypatch.setattr(commit, "RETRY_S", 0.001)

    async def tried(self) -> None:
        """Wait until a write was tried, and for some more tries."""
        async with asyncio.timeout(10):
            while not self.writes:  # noqa: ASYNC110  # time alone does it
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)


async def test_a_full_disk_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers go on meanwhile, as far as the group that fills lets them."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    disk = Full(monkeypatch)
    settling = asyncio.create_task(desk.settle({A: b"2"}))
    await disk.tried()
    assert disk.writes > 1
    assert desk.store.get(A) == b"1"
    disk.is_full = False
    assert await asyncio.wait_for(settling, 10)
    assert desk.store.get(A) == b"2"


async def test_a_store_that_cannot_be_opened_either_is_closed_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it meanwhile is told to wait."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    disk = Full(monkeypatch)
    disk.is_shut = True
    settling = asyncio.create_task(desk.settle({A: b"2"}))
    await disk.tried()
    assert disk.writes == 1
    with pytest.raises(StoreError, match="closed"):
        desk.store.get(A)
    disk.is_full = disk.is_shut = False
    assert await asyncio.wait_for(settling, 10)
    assert desk.store.get(A) == b"2"


async def test_a_store_that_was_put_aside_while_it_was_opened_anew_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins with nothing: what it had before is only in the changelog, from where the next start takes it."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    Full(monkeypatch)
    monkeypatch.setattr(Store, "reopen", Store.wipe)
    with pytest.raises(InvariantError, match="not what it was"):
        await desk.settle({B: b"2"})
    assert desk.store.position == -1


async def test_marks_have_their_own_place_in_the_store(tmp_path: Path) -> None:
    """Without dedupe the log has none of them."""
    desk = await Desk(tmp_path / "s", Log()).claim()
    await desk.settle({A: b"1"}, {ONE: Mark(1, 2)})
    assert not [entry for entry in desk.log.entries if entry.key[:1] == PACK]
    assert not list(desk.store.items(PACK))
    assert desk.store.get(TWO) is None
    assert desk.kept.marks == {ONE: (1, 2)}
