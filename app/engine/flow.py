"""One assigned partition at work: what was received of it, its lanes, the group that fills and the one that is settled.

A flow lives for one assignment. Whatever is still in hand of an earlier one ends in a flow that nobody looks at.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import structlog
from faust.types import TP

from app.engine.fetch import Packed
from app.engine.lanes import Lanes
from app.engine.offsets import PartitionOffsets
from app.engine.pipeline import Abandoned, Pipeline, Work
from app.errors import InvariantError
from app.state.group import Group, Groups
from app.wire.envelope import Outcome, Record

log = structlog.get_logger()
FETCHES = 2  # one that is unpacked and one behind it, so that no partition runs dry between two polls


@dataclass(frozen=True, slots=True)
class Limits:
    """What one partition may hold and have at work."""

    lanes: int
    records: int
    bytes: int
    chunk: int  # records unpacked, and their marks looked up, at once


class Flow:
    """The records of one partition, from the fetch to the finished offset."""

    def __init__(  # noqa: PLR0913, PLR0917  # all that a flow is tied to
        self, tp: TP, pipeline: Pipeline, limits: Limits, may_write: Callable[[], bool],
        on_fault: Callable[[Exception], Awaitable[Any]], on_room: Callable[["Flow"], None],
    ) -> None:  # fmt: skip
        self.tp = tp
        self.pipeline = pipeline
        self.offsets = PartitionOffsets()
        self.lanes: Lanes[Work] = Lanes(limits.lanes)
        self.groups = Groups(tp.partition)
        self.is_listed = False  # the crew's own note
        self.is_closing = False
        self._limits = limits
        self._may_write = may_write
        self._on_fault = on_fault
        self._on_room = on_room
        self.position = 0  # where the next fetch is expected to begin, or later
        self._fetches: deque[Iterator[Sequence[Record]]] = deque()
        self._sizes: deque[tuple[int, int]] = deque()  # newest offset and bytes of each fetch in flight
        self._bytes = 0
        self._is_held = False
        self._is_abandoned = False
        self._closed = asyncio.Event()
        self._quiet = asyncio.Event()
        self._settler: asyncio.Task[None] | None = None

    # In.

    def receive(self, packed: Packed) -> None:
        """Take a fetch, to be unpacked when its turn comes: records take less memory packed, and are handled warm."""
        if not self.is_closing:
            self._fetches.append(packed.records(self._limits.chunk))
            self.position = packed.next_offset

    def forget(self) -> None:
        """Do not unpack what is left."""
        self._fetches.clear()
        self.position = self.offsets.newest + 1

    def refill(self) -> bool:
        """Unpack some records for the lanes. False when nothing more may start now.

        Raises CorruptRecordException as `fetch.Packed` does.
        """
        while self._fetches and not (self.lanes.is_full or self.is_full):
            records = next(self._fetches[0], None)
            if records is not None:
                self._receive(records)
                return True
            self._fetches.popleft()
        return False

    def _receive(self, records: Sequence[Record]) -> None:
        self.offsets.received([record.offset for record in records])
        size = sum([len(record.value or b"") + len(record.key or b"") for record in records])
        self._sizes.append((records[-1].offset, size))
        self._bytes += size
        known = self.pipeline.known(self.tp.partition, records)
        works = zip(records, known, repeat(self.groups.applied), strict=False)
        self.lanes.add(zip(self.pipeline.lanes_of(records), works, strict=True), len(records))

    @property
    def has_more(self) -> bool:
        """Whether there is anything that has not started, and may when there is room."""
        return bool(self.lanes.waiting or self._fetches)

    @property
    def is_busy(self) -> bool:
        """Whether the partition has enough to do for now."""
        return len(self._fetches) >= FETCHES or self.is_full

    @property
    def is_full(self) -> bool:
        """Whether the partition holds its share of memory. Once it does, it must get below half of it to go on."""
        while self._sizes and self._sizes[0][0] < (self.offsets.next_offset or 0):
            self._bytes -= self._sizes.popleft()[1]
        share = 0.5 if self._is_held else 1.0
        held = self.offsets.in_flight, self._bytes
        self._is_held = held[0] >= self._limits.records * share or held[1] >= self._limits.bytes * share
        return self._is_held

    # At work.

    def ended(self, record: Record, outcome: Outcome) -> None:
        """A record was carried; its offset is finished when its effects, if it has any, are settled."""
        group = self.groups.filling
        if not (group.rows or group.outbox):
            self.pipeline.counts[outcome] += 1
            self.offsets.finished(record.offset)
        else:
            group.ended.append((record.offset, outcome))
            if self._settler is None:
                self._settler = asyncio.create_task(self._settle(), name=f"settle {self.tp.topic}-{self.tp.partition}")

    def finish(self, lane: Hashable) -> None:
        """The record that *lane* was held for has ended, one way or the other."""
        self.lanes.finish(lane)
        if self.is_closing:
            self._check_quiet()

    async def wait(self, delay_s: float) -> None:
        """Wait for another attempt. Raises Abandoned when the partition is taken away or the worker stops meanwhile."""
        try:
            async with asyncio.timeout(delay_s):
                await self._closed.wait()
        except TimeoutError:
            return
        raise Abandoned

    async def _settle(self) -> None:
        """Settle group after group until nothing is owed. What cannot be settled ends the worker: see `settle`."""
        group: Group | None = None
        try:
            while (group := self.groups.next_to_settle()) is not None:
                while not (self._may_write() or self._is_abandoned):  # noqa: ASYNC110  # time alone brings it about
                    await asyncio.sleep(0.05)
                if self._is_abandoned:
                    return
                await self.pipeline.settle(group, lambda: not self._is_abandoned)
                self.groups.settled()
                for offset, outcome in group.ended:
                    self.pipeline.counts[outcome] += 1
                    self.offsets.finished(offset)
                if self.has_more:
                    self._on_room(self)
        except Exception as error:
            if self._is_abandoned or group is None:
                return
            place = f"{self.tp.topic}-{self.tp.partition} from offset {group.ended[0][0]}"
            log.exception("cannot settle", place=place)
            await self._on_fault(InvariantError(f"{place} could not be settled: {error!r}; it will be read again"))
        finally:
            self._settler = None
            self._check_quiet()

    # Out.

    async def close(self, timeout_s: float) -> bool:
        """Start nothing more, and wait for what is in hand. False when it did not end in time: then it is abandoned."""
        self.is_closing = True
        self._fetches.clear()
        self.lanes.clear()
        self._closed.set()
        self._check_quiet()
        try:
            async with asyncio.timeout(timeout_s):
                await self._quiet.wait()
        except TimeoutError:
            self.abandon()
            return False
        return True

    def abandon(self) -> None:
        """Write nothing more, whatever ends from now on: it will be read again."""
        self._is_abandoned = self.is_closing = True
        self._fetches.clear()
        self.lanes.clear()
        self._closed.set()

    def _check_quiet(self) -> None:
        if self.is_closing and not self.lanes.held and self._settler is None:
            self._quiet.set()
