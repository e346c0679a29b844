"""Tests of the fold over a changelog, and of its differences from a store."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from famulus.cli.state.replay import Step, start_of
from famulus.cli.state.verify import differences
from famulus.inspection.changelog_reader import Fold
from famulus.processing.subscription import Options, Subscription
from famulus.state.changelog import (
    CLAIM,
    MARK,
    PROCESSED,
    RESET,
    OwnershipClaim,
    SourcePosition,
    encode,
    epoch_headers,
    pack,
    pack_key,
    row_key,
    store_mark,
)
from famulus.state.rocksdb_store import EPOCH

A, B, ROW = MARK + b"a" * 16, MARK + b"b" * 16, row_key("sums", b"key")
FIRST, SECOND = pack_key(0, 1, 1), pack_key(0, 1, 2)
MARKS = {A: store_mark(1, 1), B: store_mark(1, 2)}


def folded(*records: tuple[int, bytes, bytes | None], until: int | None = None) -> Fold:
    """Return the fold of records, each given as epoch, key and value."""
    fold = Fold(until)
    for offset, (epoch, key, value) in enumerate(records):
        fold.add(SimpleNamespace(offset=offset, key=key, value=value, headers=epoch_headers(epoch)))
    fold.end = len(records)
    return fold


def subscription() -> Subscription:
    """Return a subscription with a table."""
    topic: Any = SimpleNamespace(topics=["t"])
    made = Subscription("t", topic, Options("ignore", "key", None, "skip"), {}, "state")
    made.Table("sums", key=str, value=int)
    return made


def test_rows_may_be_left_out() -> None:
    """A caller that needs only marks and offsets keeps no rows in memory."""
    fold = Fold(keeps_rows=False)
    for offset, (key, value) in enumerate([(ROW, b"1"), (FIRST, pack(MARKS))]):
        fold.add(SimpleNamespace(offset=offset, key=key, value=value, headers=epoch_headers(1)))
    assert (fold.rows, fold.marks) == ({}, MARKS)


def test_a_mark_that_was_renewed_outlives_its_pack() -> None:
    """The other marks of the pack are removed with it."""
    fold = folded(
        (1, FIRST, pack(MARKS)), (1, SECOND, pack({A: store_mark(5, 5)})), (1, FIRST, None)
    )
    assert (fold.marks, list(fold.packs)) == ({A: store_mark(5, 5)}, [SECOND])


def test_who_has_lost_the_partition_changes_nothing() -> None:
    """The first record of a newer epoch ends the older one."""
    claim = encode(OwnershipClaim(2, "owner", "host:1"))
    fold = folded(
        (1, ROW, b"1"), (2, CLAIM, claim), (1, ROW, b"2"), (1, RESET, b""), (1, FIRST, pack(MARKS))
    )
    assert (fold.rows, fold.marks, fold.epoch, fold.worker) == ({ROW: b"1"}, {}, 2, "host:1")


def test_a_reset_leaves_what_comes_after_it() -> None:
    """Rows, marks and the position before it do not count any more."""
    before = ((1, ROW, b"1"), (1, FIRST, pack(MARKS)), (1, PROCESSED, encode(SourcePosition(9))))
    fold = folded(*before, (2, RESET, b""), (2, PROCESSED, encode(SourcePosition(4))))
    assert (fold.rows, fold.marks, fold.packs, fold.next_offset) == ({}, {}, {}, 4)
    assert folded(*before, (2, RESET, b"")).next_offset is None


STORED = {ROW: b"1", FIRST: pack(MARKS), **MARKS, EPOCH: b"1"}


def test_a_store_is_compared_as_of_its_position() -> None:
    """Later records of the log are not missing in the store.

    Keys that compaction has removed because of them are not surplus.
    """
    log = [(1, ROW, b"1"), (1, FIRST, pack(MARKS)), (1, ROW, b"2"), (1, FIRST, None)]
    assert differences(subscription(), folded(*log, until=1), dict(STORED), 1) == []
    filler = (1, row_key("sums", b"filler"), None)
    compacted = folded(filler, filler, *log[2:], until=1)
    compacted.epoch = 1
    assert differences(subscription(), compacted, dict(STORED), 1) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({ROW: b"7"}, "row sums/key differs"),
        ({row_key("sums", b"other"): b"7"}, "row sums/other is only here"),
        ({A: store_mark(7, 7)}, f"mark {A[1:].hex()} differs"),
        ({FIRST: b""}, "pack of 0 differs"),
        ({PROCESSED: encode(SourcePosition(1))}, "the processed row is only here"),
        ({EPOCH: b"3"}, "the epoch differs"),
    ],
)
def test_each_difference_is_named_without_its_value(change: dict[bytes, bytes], says: str) -> None:
    """The name is the key of a row, the digest of a mark, or the period of a pack."""
    fold = folded((1, ROW, b"1"), (1, FIRST, pack(MARKS)))
    assert differences(subscription(), fold, dict(STORED), 1) == []
    assert differences(subscription(), fold, STORED | change, 1) == [says]
    missing = {key: value for key, value in STORED.items() if key != ROW}
    assert differences(subscription(), fold, missing, 1) == ["row sums/key is only in the log"]
    assert differences(subscription(), fold, dict(STORED), 7) == [
        "the store is at 7, the log ends at 2"
    ]


def test_where_a_replay_begins() -> None:
    """Times without an offset are UTC."""
    assert start_of("earliest") == "earliest"
    assert start_of("0:100,1:250") == {0: 100, 1: 250}
    assert start_of("2026-01-31T12:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    for text in ("", "yesterday", "0:", "0:1,", "1"):
        with pytest.raises(ValueError, match="earliest, PARTITION:OFFSET"):
            start_of(text)


def test_what_is_handled_again_counts_from_what_is_processed() -> None:
    """Without state the commit counts, and a negative number is that of skipped records."""
    place: Any = ("t", 0)
    fold = folded((1, PROCESSED, encode(SourcePosition(9))))
    assert Step(place, place, fold, 5, 4).again == 5
    assert Step(place, None, None, 5, 4).again == 1
    assert Step(place, place, folded(), None, 4).again == 0
    assert Step(place, place, fold, None, 12).again == -3
