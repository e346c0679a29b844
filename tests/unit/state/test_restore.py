"""Tests of restoring a store: replay of the changelog, ownership claims, foreign stores."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from famulus.errors import ConfigError
from famulus.state.changelog import (
    CLAIM,
    MARK,
    PROCESSED,
    RESET,
    UNFINISHED,
    WHOLE,
    SeenMark,
    SourcePosition,
    encode,
    epoch_headers,
    pack,
    pack_key,
    row_key,
    store_mark,
)
from famulus.state.dedupe import Dedupe
from famulus.state.identity import ChangelogPartition
from famulus.state.restore import Restorer
from tests.support.in_memory.log import CLUSTER, TOPIC, Entry, Log, Sending, Wire, fold
from tests.support.in_memory.settling import Desk

A, B = row_key("t", b"a"), row_key("t", b"b")
ONE, TWO = MARK + b"1" * 16, MARK + b"2" * 16
OLD_PROCESSED = b'{"next_offset":7,"ahead":[1,2],"stream_ms":1000,"at_ms":2000,"counts":{"handled":9},"seek":"abc"}'
OLD, NEW = pack_key(0, 1, 1), pack_key(10, 1, 2)


def entries(*of: tuple[int, bytes, bytes | None]) -> list[Any]:
    """Return records from offset 0 on, each with its epoch."""
    return [
        Entry(offset, key, value, epoch_headers(epoch))
        for offset, (epoch, key, value) in enumerate(of)
    ]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return an open store with its replica."""
    desk = Desk(tmp_path / "s")
    desk.store.open()
    return desk


@pytest.mark.parametrize("size", [1, 2, 100])
def test_records_of_an_older_epoch_are_ignored_and_noted(desk: Desk, size: int) -> None:
    """The slices of the log and reopening the store in between make no difference."""
    log = entries(
        (1, A, b"1"),
        (2, A, b"2"),
        (1, A, b"stale"),
        (1, B, b"stale"),
        (1, CLAIM, b""),
        (2, B, None),
    )
    for at in range(0, len(log), size):
        desk.replica.replay(log[at : at + size], min(at + size, len(log)) - 1)
        desk.store.close()
        desk.store.open()
    assert (desk.kept.rows, desk.replica.stale) == ({A: b"2"}, 3)
    assert (desk.store.position, desk.store.epoch) == (5, 2)
    assert [key for key, _ in desk.store.items(b"\0stale")] == [b"\0stale" + A, b"\0stale" + B]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_forgotten_pack_takes_its_marks_along(desk: Desk, size: int) -> None:
    """The pack and its deletion may be in one slice.

    An id that was seen again meanwhile keeps its newer mark.
    """
    old, new = {ONE: store_mark(1, 1), TWO: store_mark(2, 2)}, {TWO: store_mark(12, 3)}
    log = entries(
        (1, OLD, pack(old)), (1, NEW, pack(new)), (1, OLD, None), (1, A, b"1"), (1, OLD, None)
    )
    for at in range(0, len(log), size):
        desk.replica.replay(log[at : at + size], min(at + size, len(log)) - 1)
    assert (desk.kept.marks, desk.kept.rows) == ({TWO: (12, 3)}, {A: b"1"})
    assert [key for key, _ in desk.store.items(b"p")] == [NEW]


def test_a_reset_wipes_what_was_before(desk: Desk) -> None:
    """Later records stay, and the epoch continues."""
    marks = pack({ONE: store_mark(1, 1)})
    log = entries((3, A, b"1"), (3, OLD, marks), (3, RESET, b""), (2, A, b"stale"), (3, B, b"2"))
    desk.replica.replay(log, 4)
    assert (desk.kept.rows, desk.kept.marks) == ({B: b"2"}, {})
    assert (desk.store.position, desk.store.epoch) == (4, 3)


def test_a_processed_row_can_be_deleted(desk: Desk) -> None:
    """An owner without a position deletes a row that a foreign producer wrote."""
    desk.replica.replay(
        entries((1, PROCESSED, encode(SourcePosition(50))), (1, PROCESSED, None), (1, A, b"1")), 2
    )
    assert (desk.kept.processed, desk.kept.rows) == (SourcePosition(0), {A: b"1"})


def test_the_first_claim_of_the_newest_epoch_wins(desk: Desk) -> None:
    """Every reader of the log comes to the same result."""

    def claim(epoch: int, owner: str) -> tuple[int, bytes, bytes]:
        return epoch, CLAIM, b'{"epoch":%d,"owner":"%s"}' % (epoch, owner.encode())

    desk.replica.replay(entries(claim(1, "a"), claim(2, "b"), claim(2, "c"), claim(1, "d")), 3)
    assert (desk.replica.owner, desk.replica.owner_epoch) == ("b", 2)


async def test_of_many_that_claim_at_once_one_has_it_in_the_end(tmp_path: Path) -> None:
    """Each worker gets an epoch of its own, and all but the newest are fenced."""
    log = Log()
    desks = await asyncio.gather(*(Desk(tmp_path / str(n), log).claim() for n in range(4)))
    assert sorted(desk.store.epoch for desk in desks) == sorted(
        {desk.store.epoch for desk in desks}
    )
    newest = max(desks, key=lambda desk: desk.store.epoch)
    settled = await asyncio.gather(
        *(desk.settle({A: b"1"}) for desk in desks), return_exceptions=True
    )
    assert [desk for desk, answer in zip(desks, settled, strict=True) if answer is True] == [newest]


async def test_a_store_that_is_older_than_tombstones_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log no longer has the tombstones of the rows that were deleted."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.store.close()
    log = desk.log
    log.append([(B, b"2")], epoch_headers(1))
    log.entries = [entry for entry in log.entries if entry.key != A]
    monkeypatch.setattr("famulus.state.rocksdb_store.Store.age_s", lambda _: 25 * 3600.0)
    again = await Desk(tmp_path / "s", log).claim()
    assert again.kept.rows == {B: b"2"}
    assert again.kept == fold(log)


def shorter(log: Log) -> None:
    """Cut off the end of the log."""
    log.entries, log.end = log.entries[:2], 2


def emptied(log: Log) -> None:
    """Delete all of the log as retention does, with records that no store has."""
    log.entries, log.begin, log.end = [], 100, 100


def made_anew(log: Log) -> None:
    """Replace the topic with a new one that is longer."""
    log.topic_id, log.entries, log.end = "id-2", [], 0
    log.append([(B, b"other")] * 9, epoch_headers(1))


def emptied_and_short(log: Log) -> None:
    """Replace the topic with a new one on brokers that have no topic ids."""
    log.topic_id, log.entries, log.end = "", [], 0


@pytest.mark.parametrize("happened", [shorter, emptied, made_anew, emptied_and_short])
async def test_a_store_that_may_be_the_only_copy_is_neither_mixed_nor_deleted(
    tmp_path: Path, happened: Callable[[Log], None]
) -> None:
    """The error names the remedies, and nothing is written to that log."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.store.close()
    log = desk.log
    happened(log)
    end = log.end
    again = Desk(tmp_path / "s", log)
    with pytest.raises(
        ConfigError, match=r"state restore-changelog --topic t.*state replay --topic t"
    ):
        await again.claim()
    assert again.kept.rows == {A: b"1"}
    assert log.end == end


@pytest.mark.parametrize(
    ("home", "why"),
    [
        (
            ChangelogPartition("cluster-2", TOPIC, "id-1", 0),
            "is of the cluster cluster-2, and this one is cluster-1",
        ),
        (
            ChangelogPartition(CLUSTER, TOPIC, "id-1", 3),
            "is that of state-3: it was put into the wrong place",
        ),
        (
            ChangelogPartition(CLUSTER, "other", "id-9", 0),
            "is that of other-0: it was put into the wrong place",
        ),
    ],
)
async def test_a_store_of_another_place_is_refused(
    desk: Desk, home: ChangelogPartition, why: str
) -> None:
    """The position of the store would fit into the log."""
    desk.log.append([(A, b"1")] * 9, epoch_headers(1))
    desk.store.home = home
    batch = desk.store.batch()
    batch.put(B, b"2")
    desk.store.write(batch, 3, 0)
    desk.store.close()
    with pytest.raises(ConfigError, match=why):
        await desk.claim()
    assert desk.kept.rows == {B: b"2"}


async def test_a_planted_fault_rows_of_two_logs_are_mixed_where_nobody_looks_at_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of topic ids is what keeps the rows apart in the tests above."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.store.close()
    made_anew(desk.log)
    monkeypatch.setattr("famulus.state.identity.is_other", lambda *_: False)
    monkeypatch.setattr("famulus.state.restore.is_other", lambda *_: False)
    again = await Desk(tmp_path / "s", desk.log).claim()
    assert again.kept.rows == {A: b"1", B: b"other"}


async def test_a_store_of_the_log_before_is_put_aside_when_the_new_one_is_in_use(
    tmp_path: Path,
) -> None:
    """An operator has replayed the state or written it back.

    The store on this disk is only an old copy.
    """
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.store.close()
    made_anew(desk.log)
    home = desk.log.home
    desk.log.append(
        [(RESET, b""), (PROCESSED, encode(SourcePosition(5, home=home)))], epoch_headers(2)
    )
    desk.log.append([(B, b"2")], epoch_headers(2))
    again = await Desk(tmp_path / "s", desk.log).claim()
    assert again.kept.rows == {B: b"2"}
    assert again.store.home == home
    [aside] = tmp_path.glob("s.before-*")
    kept_aside = Desk(aside)
    kept_aside.store.open()
    assert kept_aside.kept.rows == {A: b"1"}


async def test_records_that_were_written_for_another_place_are_refused(tmp_path: Path) -> None:
    """An example is a changelog mirrored from another cluster, where the offsets differ."""
    log = Log()
    log.append(
        [
            (A, b"1"),
            (
                PROCESSED,
                encode(SourcePosition(5, home=ChangelogPartition("cluster-2", TOPIC, "id-2", 0))),
            ),
        ],
        epoch_headers(1),
    )
    with pytest.raises(ConfigError, match=r"written for the cluster cluster-2.*reset-offsets t"):
        await Desk(tmp_path / "s", log).claim()


async def test_a_log_that_was_truncated_is_mended_from_a_whole_store_and_refused_without_one(
    tmp_path: Path,
) -> None:
    """Afterwards the log is complete, so that another worker can restore the state from it."""
    desk = await Desk(tmp_path / "s", dedupe=Dedupe(3_600_000)).claim()
    await desk.settle({A: b"1"}, {ONE: SeenMark(5, 1)})
    await desk.settle({B: b"2"}, {TWO: SeenMark(6, 2), ONE: SeenMark(7, 3)})
    desk.store.close()
    log = desk.log
    log.begin = log.end
    log.entries = []
    with pytest.raises(
        ConfigError, match=f"begins at offset {log.begin}, and what was before it is in no state"
    ):
        await Desk(tmp_path / "empty", log).claim()
    again = await Desk(tmp_path / "s", log).claim()
    assert again.kept.rows == {A: b"1", B: b"2"}
    assert await again.settle({A: b"3"})
    again.store.close()
    other = await Desk(tmp_path / "empty", log).claim()
    assert other.kept.rows == {A: b"3", B: b"2"}
    assert other.kept.marks == {ONE: (7, 3), TWO: (6, 2)}


async def test_who_dies_while_a_log_is_mended_mends_it_again(tmp_path: Path) -> None:
    """Until the log is complete no other worker accepts it."""
    desk = await Desk(tmp_path / "s").claim()
    await desk.settle({A: b"1"})
    desk.store.close()
    log = desk.log
    log.begin, log.entries = log.end, []
    dying = Desk(tmp_path / "s", log)
    reader: Any = log
    # The sends are the claim, the begin marker and the rows.
    wire = Wire(log, [], [Sending(), Sending(), Sending(fails="before")])
    with pytest.raises(OSError, match="away"):
        await Restorer(reader, wire, 24).acquire([dying.replica], lambda: True)
    dying.store.close()
    with pytest.raises(ConfigError, match="what was before it is in no state"):
        await Desk(tmp_path / "empty", log).claim()
    again = await Desk(tmp_path / "s", log).claim()
    assert again.kept.rows == {A: b"1"}
    again.store.close()
    assert (await Desk(tmp_path / "empty", log).claim()).kept.rows == {A: b"1"}


async def test_a_log_that_was_not_written_back_to_its_end_is_refused(tmp_path: Path) -> None:
    """Half of the rows are not a valid state."""
    log = Log()
    log.append([(WHOLE, UNFINISHED), (A, b"1")], epoch_headers(1))
    with pytest.raises(ConfigError, match=r"was being written back, and that did not end"):
        await Desk(tmp_path / "s", log).claim()
    log.append([(B, b"2"), (WHOLE, b"0")], epoch_headers(1))
    assert (await Desk(tmp_path / "s", log).claim()).kept.rows == {A: b"1", B: b"2"}


async def test_the_state_of_an_older_version_is_taken_on(tmp_path: Path) -> None:
    """State of the earlier version names no home: cluster, topic, id and partition."""
    log = Log()
    log.append([(A, b"1"), (PROCESSED, OLD_PROCESSED)], epoch_headers(1))
    desk = Desk(tmp_path / "s", log)
    desk.store.open()
    desk.replica.replay(log.entries, 1)
    assert desk.store.home is None
    desk.store.close()
    await desk.claim()
    assert desk.kept.processed == SourcePosition(7, (1, 2), 1000, 2000, {"handled": 9}, "abc")
    desk.store.close()
    desk.store.open()
    assert desk.store.home == log.home


async def test_a_worker_whose_changelog_was_made_anew_under_it_writes_nothing_over(
    desk: Desk, tmp_path: Path
) -> None:
    """The epochs of the new log do not matter."""
    desk.store.close()
    await desk.claim()
    assert await desk.settle({A: b"1"})
    made_anew(desk.log)
    end = desk.log.end
    with pytest.raises(ConfigError, match="made anew while this worker wrote to it"):
        await desk.settle({A: b"2"})
    assert desk.kept.rows == {A: b"1"}
    assert len(desk.log.entries) <= end + 2  # only the batch that was being sent


async def test_a_restore_that_is_not_wanted_any_more_ends(tmp_path: Path) -> None:
    """The restore claims nothing in that case."""
    desk = await Desk(tmp_path / "s").claim()
    reader: Any = desk.log
    other = Desk(tmp_path / "other", desk.log)
    end = desk.log.end
    assert not await Restorer(reader, Wire(desk.log, []), 24).acquire(
        [other.replica], lambda: False
    )
    assert desk.log.end == end
