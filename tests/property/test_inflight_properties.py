"""Properties of records in flight, against a model that keeps every record."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from famulus.processing import in_flight as module
from famulus.processing.in_flight import Chunk, InFlight
from famulus.processing.offset_tracker import PartitionOffsets
from famulus.state.changelog import SourcePosition, offsets_in, turns

NOW_MS = 1_000
RECORDS, BYTES = 8, 200
# (step from the offset before, milliseconds late, bytes of key and value)
sources = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2, 5]), st.integers(-150, 150), st.sampled_from([0, 1, 10, 60])
    ),
    min_size=1,
    max_size=module.LOOKS,
)
# Offsets that an earlier owner settled ahead of the first offset: runs of (gap to the run before,
# length).
earliers = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), max_size=8).map(
    lambda runs: {
        sum(map(sum, runs[:at])) + gap + number
        for at, (gap, length) in enumerate(runs)
        for number in range(length)
    }
)
chances = st.randoms(use_true_random=False)


def log_of(source: list[tuple[int, int, int]], first: int) -> list[Any]:
    """Return the records of *source*; the last ones are in the future."""
    log: list[Any] = []
    offset = first
    for number, (step, late_ms, size) in enumerate(source):
        key, value = (b"k", b"v" * (size - 1)) if size else (None, None)
        log.append(
            SimpleNamespace(
                offset=offset, timestamp=200 + 50 * number - late_ms, key=key, value=value
            )
        )
        offset += step
    return log


@dataclass
class Model:
    """Received and finished records, one by one."""

    earlier: SourcePosition
    settled: set[int]
    chunks: list[list[Any]] = field(default_factory=list)
    finished: set[int] = field(default_factory=set)
    is_held: bool = False

    @property
    def received(self) -> list[int]:
        """Return the offsets of all received records."""
        return [record.offset for chunk in self.chunks for record in chunk]

    @property
    def unfinished(self) -> list[int]:
        """Return the offsets of all unfinished records."""
        return [offset for offset in self.received if offset not in self.finished]

    @property
    def next_offset(self) -> int:
        """Return the offset below which all records are finished."""
        head = next(iter(self.unfinished), self.received[-1] + 1)
        return max(
            (offset + 1 for offset in self.received if offset < head), default=self.received[0]
        )

    @property
    def bytes(self) -> int:
        """Return the bytes of the chunks that are not entirely finished."""
        return sum(
            len(record.key or b"") + len(record.value or b"")
            for chunk in self.chunks
            if any(of.offset not in self.finished for of in chunk)
            for record in chunk
        )

    def stream_ms(self, below: int) -> int:
        """Return the newest time of the records below an offset."""
        times: list[int] = [
            min(r.timestamp, NOW_MS) for chunk in self.chunks for r in chunk if r.offset < below
        ]
        return max([self.earlier.stream_ms, *times])

    def is_full(self) -> bool:
        """Return True if the window is full, with its hysteresis."""
        share = 0.5 if self.is_held else 1.0
        self.is_held = len(self.unfinished) >= RECORDS * share or self.bytes >= BYTES * share
        return self.is_held


def check_row(in_flight: InFlight, model: Model) -> None:
    """Check the settled offsets and the stream time of the processed row."""
    row = in_flight.processed(NOW_MS, {})
    newest = model.received[-1]
    runs = offsets_in(row)
    ahead = {offset for start, end in runs for offset in range(start, end)}
    assert row.next_offset == model.next_offset
    assert row.stream_ms == model.stream_ms(row.next_offset)
    assert ahead & set(model.received) == {
        offset for offset in model.finished if offset >= row.next_offset
    }
    assert {offset for offset in ahead if offset > newest} == {
        offset for offset in model.settled if offset > newest
    }
    assert min(ahead, default=row.next_offset) >= row.next_offset
    assert all(count > 0 for count in row.ahead[1:])
    assert len(runs) <= len(model.unfinished) + len(offsets_in(model.earlier)) + 1


def work(in_flight: InFlight, model: Model, log: list[Any], chance: Random) -> Iterator[None]:
    """Receive *log* in chunks and finish it in any order, in *in_flight* and in *model*."""
    waiting, in_hand = list(log), list[int]()
    while waiting or in_hand:
        if waiting and (not in_hand or chance.random() < 0.4):
            size = chance.randint(1, 5)
            chunk, waiting = waiting[:size], waiting[size:]
            left, stream_ms = in_flight.received(chunk, NOW_MS)
            model.chunks.append(chunk)
            model.finished |= {record.offset for record in chunk if record.offset in model.settled}
            assert list(left) == [record for record in chunk if record.offset not in model.settled]
            assert stream_ms == [model.stream_ms(record.offset + 1) for record in left]
            in_hand += [record.offset for record in left]
        else:
            first = chance.choice([0, chance.randrange(len(in_hand)), len(in_hand) // 2])
            group = in_hand[first : first + chance.randint(1, 6)]
            del in_hand[first : first + len(group)]
            if len(group) == 1:
                in_flight.offsets.finished(group[0])
            else:
                in_flight.offsets.finished_all(chance.sample(group, len(group)))
            model.finished.update(group)
        yield


def made(
    source: list[tuple[int, int, int]],
    settled: set[int],
    first: int,
    make: Callable[..., InFlight] = InFlight,
) -> tuple[InFlight, Model, list[Any]]:
    """Return a window, its model and the log.

    *settled* has offsets that an earlier owner settled, counted from *first*.
    """
    offsets = {first + offset for offset in settled}
    earlier = SourcePosition(
        first, turns(first, [(offset, offset + 1) for offset in sorted(offsets)]), stream_ms=300
    )
    return make(earlier, RECORDS, BYTES), Model(earlier, offsets), log_of(source, first)


def judge(in_flight: InFlight, model: Model, log: list[Any], chance: Random) -> None:
    """Work off the log and compare with the model at times. Raises AssertionError."""
    for _ in work(in_flight, model, log, chance):
        assert in_flight.offsets.in_flight == len(model.unfinished)
        if chance.random() < 0.6:
            assert in_flight.is_full == model.is_full()
            assert in_flight._bytes == model.bytes
        if chance.random() < 0.6:
            check_row(in_flight, model)


@given(source=sources, settled=earliers, first=st.integers(0, 9), chance=chances)
def test_the_window_and_the_row_are_as_if_every_record_were_kept(
    source: list[tuple[int, int, int]], settled: set[int], first: int, chance: Random
) -> None:
    """Number and bytes of records, fullness, settled offsets and the stream time are compared."""
    judge(*made(source, settled, first), chance)


@given(source=sources, chance=chances, looks=st.integers(1, 3))
def test_chunks_that_are_looked_at_in_turns_all_have_theirs(
    source: list[tuple[int, int, int]], chance: Random, looks: int
) -> None:
    """Each pass looks at fewer chunks than there are; after enough passes, none is left out."""
    in_flight, model, log = made(source, set(), 0)
    with patch.object(module, "LOOKS", looks):
        for _ in work(in_flight, model, log, chance):
            if chance.random() < 0.5:
                _ = in_flight.is_full
                assert in_flight._bytes >= model.bytes
            check_row(in_flight, model)
            if chance.random() < 0.1:
                for _ in range(2 * len(log)):
                    _ = in_flight.is_full
                assert in_flight._bytes == model.bytes
                held = [chunk for chunk in in_flight._chunks if not chunk.is_finished]
                assert len(in_flight._chunks) <= 2 * len(held)


# Tests of the tests: planted faults must fail them.


class OneTooFarAhead(PartitionOffsets):
    """Fault: the row counts an unfinished record as settled."""

    def ahead(self) -> Iterator[tuple[int, int]]:
        """Apply the fault."""
        return ((start, end + 1) for start, end in super().ahead())


class FinishedByItsFirst(PartitionOffsets):
    """Fault: a chunk counts as finished when its first record is."""

    def is_finished(self, first: int, last: int) -> bool:
        """Apply the fault."""
        return super().is_finished(first, first)


class FinishedByItsLast(PartitionOffsets):
    """Fault: a chunk counts as finished when its last record is."""

    def is_finished(self, first: int, last: int) -> bool:
        """Apply the fault."""
        return super().is_finished(last, last)


class IntoTheHole(PartitionOffsets):
    """Fault: the offset to commit is that of the next unfinished record, beyond a hole."""

    def _finish(self, start: int, end: int) -> None:
        """Apply the fault."""
        super()._finish(start, end)
        if self.next_offset is not None and self.in_flight:
            self.next_offset = self._head


def with_offsets(of: type[PartitionOffsets]) -> Callable[..., InFlight]:
    """Return a function that makes windows with faulty offsets."""

    def make(*args: Any) -> InFlight:
        in_flight = InFlight(*args)
        in_flight.offsets = of()
        return in_flight

    return make


class NothingGivenBack(InFlight):
    """Fault: the window keeps finished chunks behind an unfinished head."""

    def _give_back(self) -> None:
        """Apply the fault."""


class MergedTooEarly(InFlight):
    """Fault: a finished chunk replaces an unfinished one before it."""

    def _give_back(self) -> None:
        """Apply the fault."""
        super()._give_back()
        for at in range(len(self._chunks) - 1, 1, -1):
            if self._chunks[at].is_finished:
                del self._chunks[at - 1]
                break


class TimeOfTheFirst(InFlight):
    """Fault: a finished chunk keeps the time of its first record."""

    def _give_back(self) -> None:
        """Apply the fault."""
        firsts = {chunk.offsets[-1]: chunk.stream_ms[:1] for chunk in self._chunks}
        super()._give_back()
        self._chunks = [
            Chunk(c.offsets, firsts[c.offsets[-1]], c.bytes, is_finished=True)
            if c.is_finished
            else c
            for c in self._chunks
        ]


class ForgetsWhatIsFarAhead(InFlight):
    """Fault: offsets that an earlier owner settled are forgotten at the first chunk."""

    def received(self, *of: Any) -> Any:
        """Apply the fault."""
        found = super().received(*of)
        self._ahead.clear()
        return found


@pytest.mark.parametrize(
    "faulty",
    [
        with_offsets(OneTooFarAhead),
        with_offsets(FinishedByItsFirst),
        with_offsets(FinishedByItsLast),
        with_offsets(IntoTheHole),
        NothingGivenBack,
        MergedTooEarly,
        TimeOfTheFirst,
        ForgetsWhatIsFarAhead,
    ],
)
def test_planted_faults_are_caught(faulty: Callable[..., InFlight]) -> None:
    @settings(database=None, max_examples=1_000, phases=[Phase.generate])
    @given(source=sources, settled=earliers, first=st.integers(0, 9), chance=chances)
    def attempt(
        source: list[tuple[int, int, int]], settled: set[int], first: int, chance: Random
    ) -> None:
        judge(*made(source, settled, first, faulty), chance)

    with pytest.raises(AssertionError):
        attempt()
