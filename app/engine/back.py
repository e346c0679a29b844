"""One of the topics through which records come back to a partition: what was fetched of it, and what is due by now."""

from collections import deque
from collections.abc import Iterator, Sequence

import structlog

from app.deadletter.returned import Returned, returned
from app.engine.offsets import PartitionOffsets
from app.errors import DecodeError
from app.wire.envelope import Record

log = structlog.get_logger()


class Back:
    """The records of one retry or redrive topic partition, at most *records* of them in flight at once.

    They are in the order of their due times, since all of a retry topic wait equally long: the first one decides.
    """

    def __init__(self, records: int) -> None:
        self.offsets = PartitionOffsets()
        self.position = 0  # where the next fetch is expected to begin, or later
        self._records_max = records
        self._fetches: deque[Iterator[Sequence[Record]]] = deque()
        self._waiting: deque[tuple[int, Returned]] = deque()

    def receive(self, chunks: Iterator[Sequence[Record]], next_offset: int) -> None:
        """Take a fetch, to be unpacked when its turn comes."""
        self._fetches.append(chunks)
        self.position = next_offset

    def forget(self) -> None:
        """Do not unpack what is left: reading goes on elsewhere."""
        self._fetches.clear()
        self.position = self.offsets.newest + 1

    @property
    def is_busy(self) -> bool:
        """Whether there is enough for now."""
        return bool(self._fetches)

    def due_in_s(self, now_ms: int) -> float | None:
        """How long until the next one may start, None when nothing is here, or enough is at work."""
        if self.offsets.in_flight >= self._records_max + len(self._waiting):
            return None
        self._unpack()
        if not self._waiting:
            return None
        return max(self._waiting[0][1].due_ms - now_ms, 0) / 1000

    def take(self, now_ms: int, limit: int) -> Iterator[tuple[int, Returned]]:
        """At most *limit* that are due, each with its offset here."""
        while limit > 0 and self.due_in_s(now_ms) == 0:
            limit -= 1
            yield self._waiting.popleft()

    def _unpack(self) -> None:
        while not self._waiting and self._fetches:
            records = next(self._fetches[0], None)
            if records is None:
                self._fetches.popleft()
                continue
            self.offsets.received([record.offset for record in records])
            for record in records:
                try:
                    self._waiting.append((record.offset, returned(record)))
                except DecodeError as error:
                    log.warning("left alone", topic=record.topic, partition=record.partition, offset=record.offset,
                                why=str(error))  # fmt: skip
                    self.offsets.finished(record.offset)
