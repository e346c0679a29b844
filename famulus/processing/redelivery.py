"""Redelivery topics of one partition: the records fetched from them, and which are due."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from typing import Protocol, cast

from faust.types import TP

from famulus.deadletter.redelivery import Redelivery, parse_redelivery
from famulus.deadletter.topics import REDRIVE
from famulus.errors import UnreadableError
from famulus.kafka.stray_counts import Kind, strays
from famulus.processing.offset_tracker import PartitionOffsets
from famulus.serialization.records import ConsumerRecord
from famulus.serialization.stray_records import StrayRecordError


class FetchedChunks(Protocol):
    """The records of one fetch, in chunks, after a chunk has raised UnreadableError."""

    def skip(self) -> None:
        """Skip the batch that could not be read."""


class RedeliveryTopic:
    """The records of one partition of a retry or redrive topic.

    At most *records* of them are processed at once.

    All records of a retry topic wait equally long, *wait_ms* milliseconds, so they are in the order
    of their due times. A record may state another time, because a clock was wrong or because the
    worker did not write it. In that case it becomes due no later than *wait_ms* after it was
    written, and records that were unpacked with it do not wait behind it.
    """

    def __init__(self, place: TP, records: int, wait_ms: int = 0) -> None:
        self.offsets = PartitionOffsets()
        self._kind: Kind = "redrive" if place.topic.endswith(REDRIVE) else "retry"
        self._partition = place.partition
        self._records_max, self._wait_ms = records, wait_ms
        self._fetches: deque[Iterator[Sequence[ConsumerRecord]]] = deque()
        # A heap by due time (ms since 1970), then offset in this topic.
        self._waiting: list[tuple[int, int, Redelivery]] = []

    def receive(self, chunks: Iterator[Sequence[ConsumerRecord]]) -> None:
        """Add a fetch, to be unpacked when its turn comes."""
        self._fetches.append(chunks)

    def forget(self) -> None:
        """Discard the fetches that are not unpacked: reading continues at another offset."""
        self._fetches.clear()

    @property
    def is_busy(self) -> bool:
        """Return whether a fetch is waiting, so that no further one is needed now."""
        return bool(self._fetches)

    def due_in_s(self, now_ms: int) -> float | None:
        """Return the seconds until the next record may start.

        Returns None when there is no record, or when as many as allowed are being processed.
        """
        if self.offsets.in_flight >= self._records_max + len(self._waiting):
            return None
        self._unpack(now_ms)
        if not self._waiting:
            return None
        return max(self._waiting[0][0] - now_ms, 0) / 1000

    def take(self, now_ms: int, limit: int) -> Iterator[tuple[int, Redelivery]]:
        """Yield at most *limit* due records, each with its offset in this topic."""
        while limit > 0 and self.due_in_s(now_ms) == 0:
            limit -= 1
            _, place, back = heappop(self._waiting)
            yield place, back

    def _unpack(self, now_ms: int) -> None:
        while not self._waiting and self._fetches:
            try:
                records = next(self._fetches[0], None)
            except UnreadableError as error:
                if not error.is_stray:
                    raise
                why = "a batch that cannot be read"
                strays.note(
                    self._kind,
                    StrayRecordError(error.topic, self._partition, error.first_offset, why),
                )
                cast(FetchedChunks, self._fetches[0]).skip()
                continue
            if records is None:
                self._fetches.popleft()
                continue
            self.offsets.received([record.offset for record in records])
            for record in records:
                latest_ms = min(record.timestamp, now_ms) + self._wait_ms + 1
                back = strays.read(
                    self._kind, record, partial(parse_redelivery, latest_ms=latest_ms)
                )
                if back is not None:
                    heappush(self._waiting, (back.due_ms, record.offset, back))
                else:
                    self.offsets.finished(record.offset)


class RedeliveryTopics:
    """All redelivery topics of one partition, with the wait of each in milliseconds.

    *on_due* is called when a record becomes due.
    """

    def __init__(
        self, waits_ms: Mapping[TP, int], records: int, on_due: Callable[[], None]
    ) -> None:
        self.of = {
            place: RedeliveryTopic(place, records, wait_ms) for place, wait_ms in waits_ms.items()
        }
        self.is_due = False  # whether a record may be due, so that `take` is worth a call
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, tp: TP, chunks: Iterator[Sequence[ConsumerRecord]]) -> None:
        """Add a fetch of one of the topics."""
        self.of[tp].receive(chunks)
        self.is_due = True

    def take(
        self, now_ms: int, limit: int
    ) -> Iterator[tuple[Redelivery, Callable[[int], None], int]]:
        """Yield at most *limit* due records of each topic, with a callback and an offset.

        The callback is to be called with the offset when the record has ended. A timer calls
        *on_due* when the next record becomes due. *now_ms* is in milliseconds since 1970.
        """
        for back in self.of.values():
            finished = self._finisher(back)
            for place, record in back.take(now_ms, limit):
                yield record, finished, place
        waits = [wait for back in self.of.values() if (wait := back.due_in_s(now_ms)) is not None]
        self.is_due = 0 in waits
        self.stop()
        if waits and not self.is_due:
            self._timer = asyncio.get_running_loop().call_later(min(waits), self._look)

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _finisher(self, back: RedeliveryTopic) -> Callable[[int], None]:
        def finished(place: int) -> None:
            back.offsets.finished(place)
            self.is_due = True  # one more may be processed now

        return finished

    def _look(self) -> None:
        self.is_due = True
        self._on_due()
