"""Tests of expiry with checkpoints: packs with their seen marks, and rows of closed windows."""

from pathlib import Path
from typing import Any

from famulus.state.changelog import BATCH_BYTES, MARK, PACK, SeenMark, SourcePosition, row_key
from famulus.state.dedupe import Dedupe
from famulus.state.partition_state import PartitionState
from famulus.state.unit_of_work import UnitOfWork
from famulus.state.windows import Window, in_window
from tests.support.in_memory.log import fold
from tests.support.in_memory.settling import Desk
from tests.support.in_memory.stored import record

A = row_key("t", b"a")
ONE, TWO, THREE = (MARK + digit * 16 for digit in (b"1", b"2", b"3"))


async def test_rows_of_closed_windows_are_removed_as_far_as_they_fit(tmp_path: Path) -> None:
    """A checkpoint and its deletions are one batch.

    Further deletions go with the next checkpoints.
    """
    prefix = row_key("w")
    desk = await Desk(tmp_path / "s", windows={prefix: Window(10, 10, 5)}).claim()
    closed: Any = {prefix + in_window(0, b"%d" % n + b"k" * 2000): b"1" for n in range(300)}
    for at in range(0, 300, 100):
        await desk.settle(dict(list(closed.items())[at : at + 100]))
    partition = PartitionState(0, desk.store, 800_000)
    rounds = 0
    while set(desk.kept.rows) != {A} and rounds < 9:
        rounds += 1
        unit = UnitOfWork(partition, record())
        unit.write(A, b"x" * 700_000)
        unit.join()
        partition.filling.ended(0, "handled")
        group = partition.next_to_settle()
        assert group is not None
        before = group.size
        assert await desk.checkpointer.settle(group, SourcePosition(1, stream_ms=100), lambda: True)
        assert group.size > before or set(desk.kept.rows) == {A}
        partition.settled(None)
    assert 1 < rounds < 9
    assert desk.largest_batch <= BATCH_BYTES
    assert set(fold(desk.log).rows) == {A}


async def test_the_first_packs_are_forgotten_as_soon_as_any(tmp_path: Path) -> None:
    """The partition had no packs when it was claimed.

    One of the packs is of marks that come late.
    """
    desk = await Desk(tmp_path / "s", dedupe=Dedupe(800)).claim()
    await desk.settle({}, {ONE: SeenMark(150, 0)}, 190)
    await desk.settle({}, {TWO: SeenMark(60, 1)}, 200)
    await desk.settle({}, {}, 901)
    assert set(desk.kept.marks) == {ONE}
    await desk.settle({}, {}, 1000)
    assert set(desk.kept.marks) == {ONE}
    await desk.settle({}, {}, 1001)
    assert desk.kept == fold(desk.log)
    assert not desk.kept.marks


async def test_packs_are_forgotten_with_their_marks(tmp_path: Path) -> None:
    """Stream time decides.

    An id that was seen again, even in this checkpoint, keeps its mark.
    """
    desk = await Desk(tmp_path / "s", dedupe=Dedupe(800)).claim()
    await desk.settle({}, {ONE: SeenMark(5, 0), TWO: SeenMark(6, 1), THREE: SeenMark(7, 2)}, 7)
    await desk.settle({}, {TWO: SeenMark(850, 3)}, 900)
    assert set(desk.kept.marks) == {ONE, TWO, THREE}
    await desk.settle({}, {}, 900)
    assert len(list(desk.store.items(PACK))) == 2
    await desk.settle({}, {THREE: SeenMark(908, 4)}, 908)
    assert desk.kept.marks == {TWO: (850, 3), THREE: (908, 4)}
    assert desk.kept == fold(desk.log)
    assert [e.value for e in desk.log.entries if e.key[:1] == PACK][-1] is None
    rebuilt = await Desk(tmp_path / "other", desk.log).claim()
    assert rebuilt.kept == desk.kept


async def test_rows_of_closed_windows_are_removed(tmp_path: Path) -> None:
    """The rows are removed from the log and the store, and rows of other tables stay."""
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


async def test_a_late_row_of_a_closed_window_is_removed_with_the_next_group(tmp_path: Path) -> None:
    """Its window had been scanned before."""
    prefix = row_key("w")
    desk = await Desk(tmp_path / "s", windows={prefix: Window(10, 10, 5)}).claim()
    await desk.settle({prefix + in_window(start, b"k"): b"1" for start in (0, 40)}, stream_ms=10)
    await desk.settle({}, stream_ms=50)
    late = prefix + in_window(20, b"late")
    assert await desk.settle({late: b"1", prefix + in_window(10, b"gone"): None}, stream_ms=50)
    assert desk.store.get(late) == b"1"
    assert await desk.settle({}, stream_ms=50)
    assert set(desk.kept.rows) == set(fold(desk.log).rows) == {prefix + in_window(40, b"k")}


async def test_rows_of_closed_windows_are_not_read_any_more(tmp_path: Path) -> None:
    """The cache of recently settled rows must not return them either."""
    prefix = row_key("w")
    row = prefix + in_window(0, b"k")
    desk = await Desk(tmp_path / "s", windows={prefix: Window(10, 10, 5)}).claim()
    partition = PartitionState(0, desk.store, 10_000)
    for stream_ms, key in ((0, row), (14, A), (15, A)):
        partition.filling.rows[key] = b"1"
        partition.filling.ended(0, "handled")
        group = partition.next_to_settle()
        assert group is not None
        assert await desk.checkpointer.settle(
            group, SourcePosition(1, stream_ms=stream_ms), lambda: True
        )
        assert partition.row(row) == desk.store.get(row) == (b"1" if stream_ms < 15 else None)
        partition.settled(None)
        assert partition.row(row) == (b"1" if stream_ms < 15 else None)


async def test_rows_of_windows_that_no_calendar_has_are_removed(tmp_path: Path) -> None:
    """Earlier versions wrote them for events with times in microseconds.

    Rows from before the table had windows stay.
    """
    prefix = row_key("w")
    old = {prefix + key: b"1" for key in (b"a", b"customer-12", b"\xc3\xa4" * 9)}
    strays: Any = {
        prefix + in_window(start, b"k"): b"1"
        for start in (1_796_092_800_000_000, -10, 253_402_300_800_000)
    }
    desk = await Desk(tmp_path / "s", windows={prefix: Window(10, 10, 5)}).claim()
    await desk.settle({**old, **strays, prefix + in_window(20, b"k"): b"1", A: b"1"}, stream_ms=14)
    later = await Desk(tmp_path / "later", desk.log, windows={prefix: Window(10, 10, 5)}).claim()
    assert strays.keys() <= later.kept.rows.keys()
    for stream_ms in (14, 15, 100):
        assert await later.settle({}, stream_ms=stream_ms)
    assert set(later.kept.rows) == set(fold(later.log).rows) == {A, *old}
