"""The records of one partition that are in flight: number, size and stream time.

The stream time at a record is the newest timestamp among the records up to it, in the order of the
log. An event may stay unfinished for long while everything behind it is finished, so finished
records behind it take no memory. Pure: time is an argument.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, takewhile
from operator import attrgetter
from typing import NamedTuple

from famulus.processing.offset_tracker import PartitionOffsets
from famulus.serialization.records import ConsumerRecord
from famulus.state.changelog import SourcePosition, offsets_in, turns

# Mapping these takes half the time of a loop.
_offset, _timestamp, _key, _value = map(attrgetter, ("offset", "timestamp", "key", "value"))
# At most so many chunks are checked at once for being finished, so that the time is bounded.
LOOKS = 32


class Chunk(NamedTuple):
    """Records that were unpacked together.

    The fields are their offsets, the stream time at each, their bytes, and the time of unpacking
    (milliseconds since 1970). When all of them are finished and an earlier chunk is not, only the
    last offset and its stream time are kept.
    """

    offsets: list[int]
    stream_ms: list[int]
    bytes: int
    is_finished: bool = False
    received_ms: int = 0


class InFlight:
    """The records of one partition that were received and are not finished, in one assignment.

    *processed* is the progress of an earlier owner, *begin* the offset where reading begins.
    *records* and *bytes* limit what may be unfinished; the bytes of a chunk count until all of it
    is finished.
    """

    def __init__(self, processed: SourcePosition, records: int, bytes: int, begin: int = 0) -> None:  # noqa: A002
        self._begin = begin
        self.offsets = PartitionOffsets()
        self._records_max, self._bytes_max = records, bytes
        self._chunks: list[Chunk] = []  # of successive finished ones, only the last
        self._look_at = 1  # index of the chunk where the next check begins
        self._bytes = 0
        self._is_held = False
        # Runs that an earlier owner settled ahead and that are not received yet. None of them is
        # below the offset where reading begins.
        self._ahead = deque(
            (max(start, begin), end) for start, end in offsets_in(processed) if end > begin
        )
        self._before = processed
        self.leader_epoch = processed.leader_epoch  # of the newest records that were fetched
        self._stream_ms = processed.stream_ms
        self._passed_ms = processed.stream_ms  # stream time before the first of the chunks

    def received(
        self, records: Sequence[ConsumerRecord], now_ms: int
    ) -> tuple[Sequence[ConsumerRecord], list[int]]:
        """Note *records*, which follow the earlier ones.

        Returns those that are to be processed, with the stream time at each. Records that an
        earlier owner has settled are left out.
        """
        offsets = list(map(_offset, records))
        self.offsets.received(offsets)
        stream_ms = self._stream_of(list(map(_timestamp, records)), now_ms)
        self._stream_ms = stream_ms[-1]
        size = sum(map(len, filter(None, chain(map(_value, records), map(_key, records)))))
        self._chunks.append(Chunk(offsets, stream_ms, size, received_ms=now_ms))
        self._bytes += size
        return (
            self._without_settled(records, offsets, stream_ms)
            if self._ahead
            else (records, stream_ms)
        )

    @property
    def newest_bytes(self) -> int:
        """Return the bytes of keys and values in the newest chunk."""
        return self._chunks[-1].bytes

    def passed(self, position: int) -> bool:
        """Note that the log below *position* was received completely.

        Returns whether more is finished by that alone.
        """
        while self._ahead and self._ahead[0][0] < position:  # removed from the log meanwhile
            _, end = self._ahead.popleft()
            if end > position:
                self._ahead.appendleft((position, end))
        return self.offsets.passed(position)

    def _stream_of(self, times: list[int], now_ms: int) -> list[int]:
        """Return the stream time at each of the records with timestamps *times*.

        The stream time never runs ahead of the clock.
        """
        # Nearly always the case.
        if self._stream_ms <= times[0] and times[-1] <= now_ms and times == sorted(times):
            return times
        return list(
            accumulate((min(time, now_ms) for time in times), max, initial=self._stream_ms)
        )[1:]

    def _without_settled(
        self, records: Sequence[ConsumerRecord], offsets: list[int], stream_ms: list[int]
    ) -> tuple[list[ConsumerRecord], list[int]]:
        """Leave out the records that an earlier owner of the partition has settled ahead."""
        left: list[ConsumerRecord] = []
        times: list[int] = []
        at, behind = 0, offsets[-1] + 1
        while self._ahead and self._ahead[0][0] < behind:
            start, end = self._ahead.popleft()
            first, stop = bisect_left(offsets, start), bisect_left(offsets, end)
            self.offsets.finished_all(offsets[first:stop])
            left += records[at:first]
            times += stream_ms[at:first]
            at = stop
            if end > behind:
                self._ahead.appendleft((behind, end))
        left += records[at:]
        times += stream_ms[at:]
        return left, times

    @property
    def is_full(self) -> bool:
        """Return whether the partition holds its share of memory.

        Once it does, it must fall below half of the share to be no longer full.
        """
        while self._chunks and self._chunks[0].offsets[-1] < (self.offsets.next_offset or 0):
            chunk = self._chunks.pop(0)
            self._bytes -= chunk.bytes
            self._passed_ms = chunk.stream_ms[-1]
        if len(self._chunks) > 1 and self._chunks[1].offsets[-1] < self.offsets.untouched:
            self._give_back()
        share = 0.5 if self._is_held else 1.0
        self._is_held = (
            self.offsets.in_flight >= self._records_max * share
            or self._bytes >= self._bytes_max * share
        )
        return self._is_held

    @property
    def is_held(self) -> bool:
        """Return the last result of `is_full`."""
        return self._is_held

    @property
    def oldest_ms(self) -> int | None:
        """Return when the oldest unfinished record was received, None if there is none.

        The time is in milliseconds since 1970.
        """
        if not self.offsets.in_flight:
            return None
        finished = self.offsets.next_offset or 0
        return next(
            (chunk.received_ms for chunk in self._chunks if chunk.offsets[-1] >= finished), None
        )

    @property
    def head_ms(self) -> int | None:
        """Return the stream time at the oldest unfinished record, None if there is none."""
        head = self.offsets.next_offset or 0
        for chunk in self._chunks if self.offsets.in_flight else ():
            if chunk.offsets[-1] >= head:
                return chunk.stream_ms[bisect_left(chunk.offsets, head)]
        return None

    @property
    def stream_ms(self) -> int:
        """Return the stream time at the newest record."""
        return self._stream_ms

    def _give_back(self) -> None:
        """Compact finished chunks behind an unfinished one.

        At most LOOKS chunks are checked in a call; the next call continues behind them.
        """
        chunks, is_finished, untouched = (
            self._chunks,
            self.offsets.is_finished,
            self.offsets.untouched,
        )
        at = self._look_at if self._look_at < len(chunks) else 1
        looks = list(
            takewhile(lambda chunk: chunk.offsets[-1] < untouched, chunks[at : at + LOOKS])
        )
        seen = [chunks[at - 1]]
        for chunk in looks:
            if not (chunk.is_finished or is_finished(chunk.offsets[0], chunk.offsets[-1])):
                seen.append(chunk)
                continue
            self._bytes -= chunk.bytes
            if seen[-1].is_finished:  # the committable offset will pass both at once
                seen.pop()
            seen.append(Chunk(chunk.offsets[-1:], chunk.stream_ms[-1:], 0, is_finished=True))
        chunks[at - 1 : at + len(looks)] = seen
        self._look_at = at - 1 + len(seen) if len(looks) == LOOKS else 1

    def processed(self, now_ms: int, counts: Mapping[str, int]) -> SourcePosition:
        """Return the progress of the partition at *now_ms*, with *counts* of records by outcome."""
        next_offset = self.offsets.next_offset
        if next_offset is None:  # the first record is not finished, or not received yet
            next_offset = self._chunks[0].offsets[0] if self._chunks else self._begin
        ahead = turns(next_offset, chain(self.offsets.ahead(), self._ahead))
        before, stream_ms = self._before, self._stream_at(next_offset)
        return SourcePosition(
            next_offset,
            ahead,
            stream_ms,
            now_ms,
            dict(counts),
            before.seek,
            before.home,
            before.source_id,
            self.leader_epoch,
        )

    def _stream_at(self, next_offset: int) -> int:
        """Return the stream time before *next_offset*, which the next owner starts from."""
        before = self._passed_ms
        for chunk in self._chunks:
            if chunk.offsets[0] >= next_offset:
                break
            before = chunk.stream_ms[bisect_left(chunk.offsets, next_offset) - 1]
        return before
