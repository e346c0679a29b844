"""Partition processors of the assigned partitions, fed with fetches and operator overrides."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import structlog
from faust.types import TP

from famulus.consumer.fetcher import FetchedBatch
from famulus.control.concurrency import WORKER
from famulus.control.control_state import ControlState
from famulus.errors import ConfigError
from famulus.processing.checkpoint_loop import WorkerCallbacks
from famulus.processing.offset_tracker import gone
from famulus.processing.partition_processor import Limits, PartitionProcessor
from famulus.processing.pipeline import Pipeline
from famulus.processing.task_pool import TaskPool
from famulus.serialization.records import ProducerRecord
from famulus.state.checkpointer import Probe
from famulus.state.manager import OwnedPartition
from famulus.wall_clock import wall_ms

log = structlog.get_logger()


class AssignedPartitions:
    """Opens a processor for each assigned partition and feeds the task pool.

    *concurrency* is the size of the task pool unless an operator sets another. *on_fault* ends the
    worker.
    """

    def __init__(
        self,
        limits: Limits,
        concurrency: int,
        timeouts_s: Mapping[str, float],
        *,
        may_write: Callable[[], bool],
        publish: Callable[[Sequence[ProducerRecord]], Awaitable[object]],
        on_fault: Callable[[Exception], Awaitable[Any]],
        probe: Probe,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self.processors: dict[TP, PartitionProcessor] = {}
        self.carrying: Counter[str] = Counter()  # agents in `carry`, by topic as on the cluster
        self.task_pool = TaskPool(concurrency, on_fault, timeouts_s)
        # Processor by partition of a retry or redrive topic.
        self.returning: dict[TP, PartitionProcessor] = {}
        # Offset at which the next fetch of a partition begins unless its log has lost records.
        self._next: dict[TP, int] = {}
        self.control_state = ControlState()
        self.pauses = self.control_state.pauses
        self._concurrency = concurrency  # unless an operator overrides it
        self._limits = limits
        self._ties = WorkerCallbacks(may_write, publish, on_fault, probe, now_ms)

    def open(
        self,
        assigned: Mapping[TP, tuple[Pipeline, OwnedPartition, int]],
        back: Mapping[TP, int] = MappingProxyType({}),
    ) -> None:
        """Start new processors, each at the offset where reading begins.

        *back* has the start offsets of their retry and redrive topic partitions. Work that is still
        in flight from an earlier assignment ends in the old processors and has no effect.
        """
        self.abandon()
        self.processors = {
            tp: PartitionProcessor(
                tp,
                pipeline,
                held.partition,
                checkpointer=held.checkpointer,
                limits=self._limits,
                ties=self._ties,
                on_room=self.task_pool.wake,
                begin=begin,
            )
            for tp, (pipeline, held, begin) in assigned.items()
        }
        self.returning = {
            back: processor for processor in self.processors.values() for back in processor.backs.of
        }
        self._next = {tp: begin for tp, (_, _, begin) in assigned.items()} | dict(back)
        for tp, (_, held, _) in assigned.items():
            if held.unreadable:
                self.processors[tp].bar(held.unreadable)
        self.heed()

    def heed(self) -> None:
        """Apply the current operator overrides to the task pool and every processor.

        These are concurrency, pauses and the counts of events that held a worker up.
        """
        self.task_pool.resize(
            self.control_state.concurrency_overrides.get(WORKER, self._concurrency)
        )
        for tp, processor in self.processors.items():
            processor.widen(
                self.control_state.concurrency_overrides.get(tp.topic, self._limits.lanes)
            )
            processor.pause(self.pauses.why(tp.topic, tp.partition))
            processor.state.failure_state.note_held(
                self.control_state.holdups.times(tp.topic, tp.partition)
            )

    @property
    def default_concurrency(self) -> int:
        """Return the concurrent events per partition unless an operator sets another number."""
        return self._limits.lanes

    def paused(self) -> set[TP]:
        """Return the partitions that need no fetch because their processor is paused.

        Retry and redrive topic partitions of these processors are included.
        """
        return {
            tp
            for of in (self.processors, self.returning)
            for tp, processor in of.items()
            if processor.paused
        }

    def checkpointed_offset(self, tp: TP) -> int | None:
        """Return the offset of *tp* that may be committed, None before there is one.

        Raises KeyError when the partition is not assigned to this worker.
        """
        processor = self.processors.get(tp)
        return (
            processor.checkpointed_offset
            if processor is not None
            else self.returning[tp].backs.of[tp].offsets.next_offset
        )

    @property
    def ours(self) -> list[TP]:
        """Return the partitions that processors read, including retry and redrive topics."""
        return [*self.processors, *self.returning]

    def receive(self, tp: TP, packed: FetchedBatch) -> PartitionProcessor | None:
        """Hand a fetch to its processor and return the processor.

        Returns None when the partition is no longer assigned or its processor is closing. A
        subscription without state starts from scratch when the log was rewound. Raises ConfigError
        when it was rewound under a subscription with state.
        """
        back = self.returning.get(tp)
        processor = self.processors.get(tp) if back is None else back
        if processor is None or processor.is_closing:
            return None
        self.moved(tp, packed.first_offset)
        self._next[tp] = packed.next_offset
        if back is not None:
            back.receive_redelivery(tp, packed)
            return back
        if packed.first_offset < processor.position:
            if processor.has_state:
                raise ConfigError(
                    f"{tp.topic}-{tp.partition} goes on at offset {packed.first_offset}, but "
                    "was read up to "
                    f"{processor.position}: the topic was made anew or lost records, and its state "
                    "knows others; "
                    f"`faust -A app state replay --topic {tp.topic}` makes the state anew"
                )
            log.warning(
                "the log was rewound; it is read again",
                topic=tp.topic,
                partition=tp.partition,
                offset=packed.first_offset,
                was_at=processor.position,
            )
            processor.abandon()
            processor = self.processors[tp] = processor.renewed(packed.first_offset)
            self.returning |= dict.fromkeys(processor.backs.of, processor)
            self.heed()
        processor.receive(packed)
        return processor

    def moved(self, tp: TP, position: int) -> None:
        """Note that reading continues at *position*.

        A position beyond the expected one means that the log has lost records; they are counted and
        logged.
        """
        before, processor = self._next.get(tp), self.processors.get(tp) or self.returning.get(tp)
        if before is None or processor is None or position <= before:
            return
        self._next[tp] = position
        if tp in self.processors:
            processor.position = position
        processor.pipeline.counts.gone += position - before
        log.warning(
            gone(before, position), topic=tp.topic, partition=tp.partition, goes_on_at=position
        )

    def forget(self, tp: TP) -> None:
        """Discard the fetched records of a partition that are not unpacked yet.

        Call this when reading continues at another offset.
        """
        self._next.pop(tp, None)
        if tp in self.processors:
            self.processors[tp].forget()
        elif tp in self.returning:
            self.returning[tp].backs.of[tp].forget()

    def busy(self) -> set[TP]:
        """Return the partitions that need no further fetch now."""
        busy = {tp for tp, processor in self.processors.items() if processor.is_busy}
        return busy | {
            tp for tp, processor in self.returning.items() if processor.backs.of[tp].is_busy
        }

    async def close(self, timeout_s: float) -> bool:
        """Start nothing more and wait for the work in flight.

        Returns False when it did not end within *timeout_s* seconds.
        """
        return all(
            await asyncio.gather(
                *(processor.close(timeout_s) for processor in self.processors.values())
            )
        )

    def abandon(self) -> None:
        """Start nothing more, wait for nothing and write nothing more."""
        for processor in self.processors.values():
            processor.abandon()
