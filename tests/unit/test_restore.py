"""Replaying the changelog and claiming it: which records count, who owns a partition, when a store is made anew."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.storage.changelog import (
    CLAIM,
    MARK,
    PROCESSED,
    RESET,
    Processed,
    encode,
    epoch_headers,
    pack,
    pack_key,
    row_key,
    store_mark,
)
from app.storage.restore import Restorer
from tests.stand_ins.log import Entry, Log, Wire, fold
from tests.stand_ins.settling import Desk

A, B = row_key("t", b"a"), row_key("t", b"b")
ONE, TWO = MARK + b"1" * 16, MARK + b"2" * 16
OLD, NEW = pack_key(0, 1, 1), pack_key(10, 1, 2)


def entries(*of: tuple[int, bytes, bytes | None]) -> list[Any]:
    """Records from offset 0 on, each with its epoch."""
    return [Entry(offset, key, value, epoch_headers(epoch)) for offset, (epoch, key, value) in enumerate(of)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An open store and its replica."""
    desk = Desk(tmp_path / "s")
    desk.store.open()
    return desk


@pytest.mark.parametrize("size", [1, 2, 100])
def test_records_of_an_older_epoch_are_ignored_and_noted(desk: Desk, size: int) -> None:
    """However the log is cut into slices, and also when the store is opened anew in between."""
    log = entries((1, A, b"1"), (2, A, b"2"), (1, A, b"stale"), (1, B, b"stale"), (1, CLAIM, b""), (2, B, None))
    for at in range(0, len(log), size):
        desk.replica.replay(log[at : at + size], min(at + size, len(log)) - 1)
        desk.store.close()
        desk.store.open()
    assert (desk.kept.rows, desk.replica.stale) == ({A: b"2"}, 3)
    assert (desk.store.position, desk.store.epoch) == (5, 2)
    assert [key for key, _ in desk.store.items(b"\0stale")] == [b"\0stale" + A, b"\0stale" + B]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_forgotten_pack_takes_its_marks_along(desk: Desk, size: int) -> None:
    """Also when both are in one slice; an id that was seen again since keeps its newer mark."""
    old, new = {ONE: store_mark(1, 1), TWO: store_mark(2, 2)}, {TWO: store_mark(12, 3)}
    log = entries((1, OLD, pack(old)), (1, NEW, pack(new)), (1, OLD, None), (1, A, b"1"), (1, OLD, None))
    for at in range(0, len(log), size):
        desk.replica.replay(log[at : at + size], min(at + size, len(log)) - 1)
    assert (desk.kept.marks, desk.kept.rows) == ({TWO: (12, 3)}, {A: b"1"})
    assert [key for key, _ in desk.store.items(b"p")] == [NEW]


def test_a_reset_wipes_what_was_before(desk: Desk) -> None:
    """And nothing after it; the epoch goes on."""
    marks = pack({ONE: store_mark(1, 1)})
    log = entries((3, A, b"1"), (3, OLD, marks), (3, RESET, b""), (2, A, b"stale"), (3, B, b"2"))
    desk.replica.replay(log, 4)
    assert (desk.kept.rows, desk.kept.marks) == ({B: b"2"}, {})
    assert (desk.store.position, desk.store.epoch) == (4, 3)


def test_a_processed_row_can_be_deleted(desk: Desk) -> None:
    """As when what a stranger wrote is overruled by an owner that has none yet."""
    desk.replica.replay(entries((1, PROCESSED, encode(Processed(50))), (1, PROCESSED, None), (1, A, b"1")), 2)
    assert (desk.kept.processed, desk.kept.rows) == (Processed(0), {A: b"1"})


def test_the_first_claim_of_the_newest_epoch_wins(desk: Desk) -> None:
    """The log decides, for everybody alike."""

    def claim(epoch: int, owner: str) -> tuple[int, bytes, bytes]:
        return epoch, CLAIM, b'{"epoch":%d,"owner":"%s"}' % (epoch, owner.encode())

    desk.replica.replay(entries(claim(1, "a"), claim(2, "b"), claim(2, "c"), claim(1, "d")), 3)
    assert (desk.replica.owner, desk.replica.owner_epoch) == ("b", 2)


async def test_of_many_that_claim_at_once_one_has_it_in_the_end(tmp_path: Path) -> None:
    """Each gets an epoch of its own, and everybody else is fenced."""
    log = Log()
    desks = await asyncio.gather(*(Desk(tmp_path / str(n), log).claim() for n in range(4)))
    assert sorted(desk.store.epoch for desk in desks) == sorted({desk.store.epoch for desk in desks})
    newest = max(desks, key=lambda desk: desk.store.epoch)
    settled = await asyncio.gather(*(desk.settle({A: b"1"}) for desk in desks), return_exceptions=True)
    assert [desk for desk, answer in zip(desks, settled, strict=True) if answer is True] == [newest]


@pytest.mark.parametrize("why", ["shorter", "truncated", "old"])
async def test_a_store_that_the_log_does_not_continue_is_made_anew(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was made anew, begins later, or has forgotten what says that rows were deleted."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.store.close()
    log = desk.log
    if why == "shorter":
        log = Log()
    elif why == "truncated":
        log.entries, log.begin, log.end = [], 100, 100
    else:
        log.append([(B, b"2")], epoch_headers(1))
        log.entries = [entry for entry in log.entries if entry.key != A]
        monkeypatch.setattr("app.storage.store.Store.age_s", lambda _: 25 * 3600.0)
    again = await Desk(tmp_path / "s", log).claim()
    assert again.kept.rows == ({B: b"2"} if why == "old" else {})
    assert again.kept == fold(log)


async def test_a_restore_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    """Nothing is claimed then."""
    desk = await Desk(tmp_path / "s").claim()
    reader: Any = desk.log
    other = Desk(tmp_path / "other", desk.log)
    end = desk.log.end
    assert not await Restorer(reader, Wire(desk.log, []), 24).acquire([other.replica], lambda: False)
    assert desk.log.end == end
