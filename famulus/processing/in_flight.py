"""The records of one partition that are in flight: how many, how large, and what the stream's time was at each.

The stream's time is the newest timestamp among the records up to one, in the order of the log. An
event may stay unfinished for long while everything behind it goes on, so what is finished behind it
takes no room. Pure: time is an argument.
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

# They cost half of what a loop does.
_offset, _timestamp, _key, _value = map(attrgetter, ("offset", "timestamp", "key", "value"))
# Chunks of which one look finds out whether they are finished, so that many cost no more than a
# few.
LOOKS = 32


class Chunk(NamedTuple):
    """Records that were unpacked together: their offsets, the stream's time at each, their bytes, and when that was.

    When all of them are finished and an earlier one is not, only the last one's offset and time are
    left.
    """

    offsets: list[int]
    stream_ms: list[int]
    bytes: int
    is_finished: bool = False
    received_ms: int = 0


class InFlight:
    """What was received of one partition and is not finished, in this assignment.

    *processed* says how far an earlier owner was and what its offsets are of, *begin* where reading
    begins. *records* and *bytes* are how much may be unfinished; the bytes of a chunk count until
    all of it is finished.
    """

    def __init__(self, processed: SourcePosition, records: int, bytes: int, begin: int = 0) -> None:  # noqa: A002
        self._begin = begin
        self.offsets = PartitionOffsets()
        self._records_max, self._bytes_max = records, bytes
        self._chunks: list[Chunk] = []  # of finished ones in a row, the last
        self._look_at = 1  # where in the chunks the next look begins
        self._bytes = 0
        self._is_held = False
        # What an earlier owner settled ahead, and was not received yet: runs, none of them below
        # where reading begins.
        self._ahead = deque(
            (max(start, begin), end) for start, end in offsets_in(processed) if end > begin
        )
        self._before = processed
        self.leader_epoch = processed.leader_epoch  # of the newest records that were fetched
        self._stream_ms = processed.stream_ms
        self._passed_ms = processed.stream_ms  # the stream's time before the first of the chunks

    def received(
        self, records: Sequence[ConsumerRecord], now_ms: int
    ) -> tuple[Sequence[ConsumerRecord], list[int]]:
        """Note *records*, which follow those before.

        Returns those to be carried, with the stream's time at each.
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
        """How many bytes of keys and values `received` has noted last."""
        return self._chunks[-1].bytes

    def passed(self, position: int) -> bool:
        """Note that all of the log below *position* was received.

        Returns whether more is finished by that alone.
        """
        while self._ahead and self._ahead[0][0] < position:  # what was removed from the log since
            _, end = self._ahead.popleft()
            if end > position:
                self._ahead.appendleft((position, end))
        return self.offsets.passed(position)

    def _stream_of(self, times: list[int], now_ms: int) -> list[int]:
        """The stream's time at each of the records that carry *times*.

        It never runs ahead of the clock.
        """
        # As nearly always.
        if self._stream_ms <= times[0] and times[-1] <= now_ms and times == sorted(times):
            return times
        return list(
            accumulate((min(time, now_ms) for time in times), max, initial=self._stream_ms)
        )[1:]

    def _without_settled(
        self, records: Sequence[ConsumerRecord], offsets: list[int], stream_ms: list[int]
    ) -> tuple[list[ConsumerRecord], list[int]]:
        """Leave out what an earlier owner of the partition settled ahead of an offset that it did not."""
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
        """Whether the partition holds its share of memory.

        Once it does, it must get below half of it to go on.
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
        """Whether it was full when `is_full` was asked last."""
        return self._is_held

    @property
    def oldest_ms(self) -> int | None:
        """When the oldest record that is not finished was received, None when there is none."""
        if not self.offsets.in_flight:
            return None
        finished = self.offsets.next_offset or 0
        return next(
            (chunk.received_ms for chunk in self._chunks if chunk.offsets[-1] >= finished), None
        )

    @property
    def head_ms(self) -> int | None:
        """The stream's time at the oldest record that is not finished, None when there is none."""
        head = self.offsets.next_offset or 0
        for chunk in self._chunks if self.offsets.in_flight else ():
            if chunk.offsets[-1] >= head:
                return chunk.stream_ms[bisect_left(chunk.offsets, head)]
        return None

    @property
    def stream_ms(self) -> int:
        """The stream's time at the newest record."""
        return self._stream_ms

    def _give_back(self) -> None:
        """Let go of what finished chunks hold although the first is not: a few are looked at each time, in turns."""
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
            if seen[-1].is_finished:  # what may be committed will pass both at once
                seen.pop()
            seen.append(Chunk(chunk.offsets[-1:], chunk.stream_ms[-1:], 0, is_finished=True))
        chunks[at - 1 : at + len(looks)] = seen
        self._look_at = at - 1 + len(seen) if len(looks) == LOOKS else 1

    def processed(self, now_ms: int, counts: Mapping[str, int]) -> SourcePosition:
        """How far the partition is by now; *counts* says how its records ended."""
        next_offset = self.offsets.next_offset
        if next_offset is None:  # the first record is still in hand, or has yet to come
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
        """The stream's time before *next_offset*, as whoever goes on from there has to know it."""
        before = self._passed_ms
        for chunk in self._chunks:
            if chunk.offsets[0] >= next_offset:
                break
            before = chunk.stream_ms[bisect_left(chunk.offsets, next_offset) - 1]
        return before
