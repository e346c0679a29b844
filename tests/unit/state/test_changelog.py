"""Tests of the changelog's formats and the arithmetic of windows: values survive a round trip."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.errors import ConfigError
from famulus.state.changelog import (
    MARK,
    SeenMark,
    SourcePosition,
    decode_processed,
    encode,
    epoch_headers,
    epoch_of,
    newest_ms,
    offsets_in,
    pack,
    pack_key,
    period_of,
    row_key,
    store_mark,
    stored_mark,
    table_and_key,
    turns,
    unpack,
)
from famulus.state.windows import Window, from_text, in_window, start_of, text_of

times = st.integers(0, 2**50)
marks = st.builds(SeenMark, times, st.integers(0, 2**62))


@given(next_offset=st.integers(0, 2**50), gaps=st.lists(st.integers(0, 4), max_size=40))
def test_offsets_ahead_come_back_from_their_turns(next_offset: int, gaps: list[int]) -> None:
    """The runs pass through JSON.

    The position itself may be among the offsets, and runs may touch.
    """
    runs, at = list[tuple[int, int]](), next_offset
    for number, gap in enumerate(gaps):
        runs.append((at + gap, at + gap + 1 + number % 3))
        at = runs[-1][1]
    row = decode_processed(encode(SourcePosition(next_offset, turns(next_offset, runs))))
    assert [o for run in offsets_in(row) for o in range(*run)] == [
        o for run in runs for o in range(*run)
    ]
    assert all(count > 0 for count in row.ahead[1:])


@given(st.dictionaries(st.binary(min_size=16, max_size=16), marks, max_size=20))
def test_marks_come_back_from_a_pack_and_from_the_store(of: dict[bytes, SeenMark]) -> None:
    kept = {MARK + digest: store_mark(*mark) for digest, mark in of.items()}
    assert list(unpack(pack(kept))) == list(kept.items())
    assert [stored_mark(mark) for mark in kept.values()] == list(of.values())


@given(st.lists(marks, min_size=1))
def test_the_newest_mark_is_known_by_its_bytes(of: list[SeenMark]) -> None:
    """Encoded marks sort by time."""
    assert (
        newest_ms({MARK + b"%16d" % number: store_mark(*mark) for number, mark in enumerate(of)})
        == max(of).seen_ms
    )


@given(times, st.integers(0, 2**40), st.integers(0, 2**40))
def test_packs_sort_by_their_period(period_ms: int, epoch: int, number: int) -> None:
    """The oldest pack comes first in the store."""
    key = pack_key(period_ms, epoch, number)
    assert period_of(key) == period_ms
    assert key < pack_key(period_ms + 1, 0, 0)


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    st.binary(),
)
def test_rows_know_their_table(table: str, key: bytes) -> None:
    assert table_and_key(row_key(table, key)) == (table, key)


def test_a_record_without_an_epoch_is_older_than_any() -> None:
    """Its producer had no ownership claim."""
    assert epoch_of(epoch_headers(7)) == 7
    assert epoch_of([("other", b"")]) == 0


@given(
    at_ms=times,
    step=st.integers(1, 50),
    times_longer=st.integers(0, 200),
    expires=st.integers(0, 99),
)
def test_a_time_lies_in_all_its_windows_and_in_no_other(
    at_ms: int, step: int, times_longer: int, expires: int
) -> None:
    """Windows begin at the multiples of the step at most a window's size before the time.

    A time after 1970 has no window that begins before 1970.
    """
    window = Window(step + times_longer, step, expires)
    starts = list(window.starts(at_ms))
    assert starts == [
        s
        for s in range(at_ms - window.size_ms - step, at_ms + step)
        if s % step == 0 and s <= at_ms < s + window.size_ms and (s >= 0 or at_ms < 0)
    ]
    if not 0 <= at_ms < window.size_ms:
        assert len(starts) in {window.size_ms // step, -(-window.size_ms // step)}
    stream_ms = starts[0] + window.size_ms + expires
    assert starts[0] < window.expired_before(stream_ms)
    assert starts[0] >= window.expired_before(stream_ms - 1)


@given(st.integers(0, 2**45), st.text(st.characters(exclude_categories=["Cs"])))
def test_keys_of_windows_come_back_and_sort_by_time(start_ms: int, key: str) -> None:
    raw = in_window(start_ms, key.encode())
    assert start_of(raw) == start_ms
    assert from_text(text_of(raw)) == raw
    assert raw < in_window(start_ms + 1, b"")


@pytest.mark.parametrize(
    ("size", "step", "expires"), [(0, 0, 0), (2, 3, 0), (2, 0, 0), (2, -1, 0), (2, 1, -1)]
)
def test_windows_that_leave_out_time_are_refused(size: int, step: int, expires: int) -> None:
    """The error comes when the window is declared."""
    with pytest.raises(ConfigError, match=r"a table's window"):
        Window.of(timedelta(seconds=size), timedelta(seconds=step), timedelta(seconds=expires))
