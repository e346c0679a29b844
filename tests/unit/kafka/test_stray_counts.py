"""Tests of stray and unreadable records of a state changelog, and of how often they are logged."""

from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from famulus.inspection.changelog_reader import Fold
from famulus.kafka.stray_counts import EVERY_S, Strays
from famulus.serialization.stray_records import StrayRecordError, number_in
from famulus.state.changelog import (
    CLAIM,
    PROCESSED,
    RESET,
    OwnershipClaim,
    SourcePosition,
    encode,
    epoch_bytes,
    epoch_headers,
    pack_key,
    row_key,
)
from famulus.state.identity import ChangelogPartition
from famulus.state.replica import Replica
from famulus.state.rocksdb_store import STALE, UNREADABLE
from tests.support.in_memory.stored import MemoryStore

ROW, PACK = row_key("count", b"k"), pack_key(0, 3, 1)
MARKS = b"m" + bytes(16) + bytes(16)


def records(*rows: tuple[bytes | None, bytes | None, Any]) -> list[Any]:
    """Return a log of the given keys and values, each with an epoch or with its headers."""
    return [
        SimpleNamespace(
            offset=at,
            key=key,
            value=value,
            headers=epoch_headers(of) if isinstance(of, int) else of,
        )
        for at, (key, value, of) in enumerate(rows)
    ]


def replica_of(log: list[Any]) -> Replica:
    """Return a replica into which *log* was replayed."""
    store: Any = MemoryStore({})
    store.open()
    replica = Replica(ChangelogPartition("", "g-t-state", "", 0), "t", store)
    replica.replay(log, len(log) - 1)
    return replica


JUNK: dict[str, tuple[bytes | None, bytes | None, Any]] = {
    "an epoch of three bytes": (ROW, b"9", [("epoch", b"abc")]),
    "an epoch without a value": (ROW, b"9", [("epoch", None)]),
    "no epoch": (ROW, b"9", []),
    "an epoch below nothing": (ROW, b"9", [("epoch", epoch_bytes(-1))]),
    "an epoch that no claim reaches": (ROW, b"9", [("epoch", epoch_bytes(2**62))]),
    "a claim that is no JSON": (CLAIM, b"\xff{", 3),
    "a claim of another epoch": (CLAIM, b'{"epoch":' + b"9" * 400 + b',"owner":"x"}', 3),
    "a claim of a higher epoch that is no JSON": (CLAIM, b"{", 9),
    "no key": (None, b"9", 3),
    "no key of ours": (b"\0position", b"99", 3),
    "the store's own key": (b"m" + bytes(16), b"9", 4),
    "attempts nested too deeply": (b"a" + bytes(8), b"[" * 100_000, 3),
    "attempts of a number of four hundred digits": (
        b"a" + bytes(8),
        b'{"h":[1,1,' + b"9" * 400 + b"]}",
        3,
    ),
    "a dead letter at no offset": (b"dead", b"k", 3),
    "a pack of half a mark": (PACK, MARKS[:-1], 3),
    "a pack of other keys": (PACK, b"\0processed" + bytes(23), 3),
    "a processed row nested too deeply": (PROCESSED, b"[" * 100_000, 3),
    "a processed row with an offset below nothing": (PROCESSED, b'{"next_offset":-5}', 3),
    "a processed row with half a turn": (PROCESSED, b'{"next_offset":5,"ahead":[1]}', 3),
}
OURS = [(ROW, b"1", 3), (PACK, MARKS, 3), (PROCESSED, encode(SourcePosition(5)), 3)]


@pytest.mark.parametrize("junk", JUNK.values(), ids=list(JUNK))
def test_what_no_owner_wrote_changes_nothing(junk: tuple[bytes | None, bytes | None, Any]) -> None:
    """The earlier record of the key and the records behind it count as usual.

    The owner must overwrite the stray record, because compaction would keep it.
    """
    log = records(*OURS, junk, (row_key("count", b"l"), b"2", 3))
    replica = replica_of(log)
    rows: dict[bytes, bytes] = replica.store.rows  # type: ignore[attr-defined]
    assert (rows[ROW], rows[row_key("count", b"l")], rows[PACK]) == (b"1", b"2", MARKS)
    assert rows[PROCESSED] == encode(SourcePosition(5))
    assert (replica.store.epoch, replica.unreadable, replica.owner) == (3, "", "")
    key = junk[0]
    assert (STALE + (key or b"") in rows) == (key not in {None, CLAIM})
    fold = Fold()
    for record in log:
        fold.add(record)
    assert fold.rows == {ROW: b"1", row_key("count", b"l"): b"2"}
    assert (fold.next_offset, fold.epoch, fold.packs) == (5, 3, {PACK: MARKS})


@pytest.mark.parametrize("key", [PACK, PROCESSED])
@pytest.mark.parametrize("cure", ["again", "reset"])
def test_what_an_owner_wrote_and_nobody_can_read_stops_the_partition(key: bytes, cure: str) -> None:
    """Compaction may have removed the earlier record of the key.

    A later record of that key, or a reset, repairs the partition.
    """
    replica = replica_of(records((ROW, b"1", 3), (key, b"junk", 3)))
    assert replica.unreadable.startswith("g-t-state/0/1: ")
    # Another worker, on the same disk.
    again = Replica(ChangelogPartition("", "g-t-state", "", 0), "t", replica.store)
    assert again.unreadable == replica.unreadable
    mended = {
        "again": (key, MARKS if key == PACK else encode(SourcePosition(5)), 3),
        "reset": (RESET, b"", 4),
    }[cure]
    [record] = records(mended)
    record.offset = 2
    again.replay([record], 2)
    assert again.unreadable == ""
    assert not list(again.store.items(UNREADABLE))


def test_a_claim_is_one_when_its_header_says_so_too() -> None:
    """A forged claim, with another epoch in its header, would make every worker claim forever."""
    replica = replica_of(
        records(
            (CLAIM, encode(OwnershipClaim(3, "a")), 3), (CLAIM, encode(OwnershipClaim(7, "b")), 3)
        )
    )
    assert (replica.owner, replica.owner_epoch) == ("a", 3)


def test_strays_are_counted_and_said_now_and_then() -> None:
    """The first stray record of a topic is logged at once; a later line counts those in between."""
    now = 0.0
    strays = Strays(lambda: now)
    with capture_logs() as said:
        for offset in range(1_000):
            strays.note("admin", StrayRecordError("g.admin", 0, offset, "not JSON"))
        strays.note("state", StrayRecordError("g-t-state", 0, 5, "not JSON"))
        now = EVERY_S
        strays.note("admin", StrayRecordError("g.admin", 0, 1_000, "not JSON"))
    assert (strays.counts["admin"], strays.counts["state"], strays.counts["redrive"]) == (
        1_001,
        1,
        0,
    )
    assert [(line["offset"], line["others_before"]) for line in said] == [
        (0, 0),
        (5, 0),
        (1_000, 999),
    ]


@pytest.mark.parametrize(
    "digits", [b"", b"1_0", b" 1", b"9" * 400, b"-1", b"9223372036854775808", "\u0661".encode()]
)
def test_a_number_has_bounds(digits: bytes) -> None:
    with pytest.raises(ValueError, match="no number from 0 to 9223372036854775807"):
        number_in(digits)
