"""The topics through which records come back to a partition: what was fetched of them, and what is due by now."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog
from faust.types import TP

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
        self._records_max = records
        self._fetches: deque[Iterator[Sequence[Record]]] = deque()
        self._waiting: deque[tuple[int, Returned]] = deque()

    def receive(self, chunks: Iterator[Sequence[Record]]) -> None:
        """Take a fetch, to be unpacked when its turn comes."""
        self._fetches.append(chunks)

    def forget(self) -> None:
        """Do not unpack what is left: reading goes on elsewhere."""
        self._fetches.clear()

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


class Backs:
    """All such topics of one partition. *on_due* is told when something may start."""

    def __init__(self, places: Iterable[TP], records: int, on_due: Callable[[], None]) -> None:
        self.of = {place: Back(records) for place in places}
        self.is_due = False  # whether it is worth a look
        self._on_due = on_due
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, tp: TP, chunks: Iterator[Sequence[Record]]) -> None:
        """Take a fetch of one of them."""
        self.of[tp].receive(chunks)
        self.is_due = True

    def take(self, now_ms: int, limit: int) -> Iterator[tuple[Returned, Callable[[int], None], int]]:
        """At most *limit* of each that are due, with whom to tell its offset at the end. A timer sees to the rest.

        Times are milliseconds since 1970.
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
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _finisher(self, back: Back) -> Callable[[int], None]:
        def finished(place: int) -> None:
            back.offsets.finished(place)
            self.is_due = True  # there is room for one more

        return finished

    def _look(self) -> None:
        self.is_due = True
        self._on_due()
