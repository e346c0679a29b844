"""Tests of the in-flight window: records that are finished behind an unfinished one use no room."""

import pytest

from famulus.processing.in_flight import LOOKS, InFlight
from famulus.processing.offset_tracker import STALE_RUNS
from famulus.state.changelog import SourcePosition
from tests.support.in_memory.house import record

NOW_MS = 10**9
SPAN = 200_000


def pass_by(waits: set[int], span: int, chunk: int, step: int = 1) -> InFlight:
    """Return a window in which all of a span is finished except *waits*.

    The window is limited to 10,000 records and 1 MiB and is never full.
    """
    in_flight = InFlight(SourcePosition(0), 10_000, 2**20)
    for start in range(0, span, chunk * step):
        offsets = range(start, min(start + chunk * step, span), step)
        assert not in_flight.is_full
        in_flight.received([record(offset, "key", offset) for offset in offsets], NOW_MS)
        in_flight.offsets.finished_all([offset for offset in offsets if offset not in waits])
    return in_flight


def runs(in_flight: InFlight) -> int:
    """Return the number of runs that are kept."""
    offsets = in_flight.offsets
    assert len(offsets._starts) == len(offsets._ends) == len(offsets._befores)
    return len(offsets._starts)


def kept(in_flight: InFlight) -> int:
    """Return the number of offsets and times that are kept in chunks."""
    return sum(len(chunk.offsets) + len(chunk.stream_ms) for chunk in in_flight._chunks)


def test_the_head_has_the_streams_time_at_it() -> None:
    """The head is the oldest unfinished record, also across gaps in the log."""
    in_flight = InFlight(SourcePosition(0), 10_000, 2**20)
    assert in_flight.head_ms is None
    for offsets in ([2, 3, 7], [8, 9]):
        in_flight.received([record(offset, "key", 100 * offset) for offset in offsets], NOW_MS)
    heads: list[int | None] = []
    for finished in ([3], [2], [8], [7], [9]):
        heads.append(in_flight.head_ms)
        in_flight.offsets.finished_all(finished)
    assert heads == [200, 200, 700, 700, 900]
    assert in_flight.head_ms is None


def test_what_is_finished_behind_one_that_waits_takes_no_room() -> None:
    """Finished records use no room in the window, in memory or in the source position.

    All of them count as soon as the unfinished record is done.
    """
    in_flight = pass_by({0}, SPAN, 500)
    assert not in_flight.is_full
    assert (in_flight.offsets.in_flight, in_flight.offsets.next_offset) == (1, None)
    assert in_flight._bytes == 500 * 4
    assert runs(in_flight) == 1
    assert (len(in_flight._chunks), kept(in_flight)) == (2, 2 * 501)
    row = in_flight.processed(NOW_MS, {})
    assert (row.next_offset, row.ahead, row.stream_ms) == (0, (1, SPAN - 1), 0)
    in_flight.offsets.finished(0)
    row = in_flight.processed(NOW_MS, {})
    assert (row.next_offset, row.ahead, row.stream_ms) == (SPAN, (), SPAN - 1)
    assert not in_flight.is_full
    assert (in_flight._bytes, in_flight._chunks) == (0, [])


@pytest.mark.parametrize(("span", "chunk"), [(SPAN, 500), (20_000, 7), (5_000, 1)])
def test_many_that_wait_cost_their_own_chunks_only(span: int, chunk: int) -> None:
    """The size of the chunks does not matter, except for a few that were not scanned yet."""
    waits = set(range(0, span, span // 50))
    in_flight = pass_by(waits, span, chunk)
    assert not in_flight.is_full
    assert runs(in_flight) == len(waits)
    assert len(in_flight._chunks) <= 2 * len(waits) + LOOKS
    assert kept(in_flight) <= 2 * (len(waits) * (chunk + 1) + LOOKS * chunk)
    row = in_flight.processed(NOW_MS, {})
    assert row.ahead == (1, span // 50 - 1) * len(waits)
    in_flight.offsets.finished_all(waits)
    row = in_flight.processed(NOW_MS, {})
    assert (row.next_offset, row.ahead, row.stream_ms) == (span, (), span - 1)


def test_holes_between_all_records_cost_nothing_once_they_are_behind() -> None:
    """Transactions of one record leave such gaps: each unfinished record is a run of its own."""
    in_flight = pass_by({0}, SPAN // 10, 500, step=2)
    assert not in_flight.is_full
    assert runs(in_flight) == 1
    assert in_flight.processed(NOW_MS, {}).ahead == (1, SPAN // 10 - 2)
    in_flight = pass_by(set(), SPAN // 10, 500, step=2)
    assert not in_flight.is_full
    assert runs(in_flight) <= STALE_RUNS
    assert in_flight.processed(NOW_MS, {}).ahead == ()


def test_a_row_before_any_record_says_what_is_settled_from_where_reading_begins() -> None:
    """Reading may begin past the state's position.

    A later commit was followed, or records were deleted.
    """
    earlier = SourcePosition(3, (1, 1, 5, 10, 30, 1), stream_ms=5)  # 4, 10 to 19, 50
    row = InFlight(earlier, 10_000, 2**20, begin=15).processed(NOW_MS, {})
    assert (row.next_offset, row.ahead, row.stream_ms) == (15, (0, 5, 30, 1), 5)


def test_a_row_with_nothing_ahead_says_nothing_of_holes() -> None:
    """A log full of gaps must not make long rows."""
    in_flight = InFlight(SourcePosition(0), 10_000, 2**20)
    in_flight.received([record(offset, "key") for offset in range(0, 1000, 2)], NOW_MS)
    in_flight.offsets.finished_all(range(0, 100, 2))
    row = in_flight.processed(NOW_MS, {})
    assert (row.next_offset, row.ahead) == (99, ())
