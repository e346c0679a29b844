"""Task pool: a fixed number of tasks that process the records of all partitions.

The pool follows the Leader/Followers pattern. One task is the leader: it starts the available
records, one after the other. A handler that never suspends costs nothing but its call. When a
handler suspends, its task keeps that event and another task becomes the leader, and so on up to
`concurrency`. Every handler runs in a real asyncio task from its first step on, so
`asyncio.timeout` and everything else that uses the current task works in handlers.

A task outlives its handlers: only the stop of the pool ends one. No effect of a handler on its task
reaches the next event, see `task_slot`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import copy_context
from types import MappingProxyType
from typing import Any, Protocol

from famulus.errors import InvariantError
from famulus.processing.deferral import Defer
from famulus.processing.failure_classification import forget_cancellations
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.pipeline import WorkItem
from famulus.processing.task_slot import (
    RENEWAL,
    CleanContext,
    TaskSlot,
    TimeoutWatchdog,
    notify_on_suspend,
)
from famulus.state.unit_of_work import current_unit

TURN_RECORDS = 50  # records of one partition before the next partition has its turn
SLICE_S = 0.005  # of processing before the event loop runs other tasks
HELD_S = 5.0  # an event that blocks the event loop longer is reported; group sessions are longer
STOP_AGAIN_S = 1.0  # between two cancellations of a task that is to end


class OnHeld(Protocol):
    """A callback for an event that has blocked the event loop."""

    def __call__(
        self, processor: PartitionProcessor, work: WorkItem, seconds: float, *, is_sure: bool
    ) -> None:
        """Note that *work* has blocked the event loop for *seconds*.

        Unless *is_sure*, it may have been an event shortly before it.
        """


class TaskPool:
    """A pool of at most *concurrency* tasks, one record each.

    *on_bug* is called with an error that has ended a task. *timeouts_s* has the longest time of an
    attempt in seconds, by the handler's name; other handlers have no limit.
    """

    def __init__(
        self,
        concurrency: int,
        on_bug: Callable[[Exception], Awaitable[Any]],
        timeouts_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._concurrency = concurrency
        # Referenced here so that they are not garbage-collected before they are done.
        self._telling: list[asyncio.Future[Any]] = []
        self._on_bug = on_bug
        self._processors: deque[PartitionProcessor] = deque()  # that may have a record to start
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._has_leader = False  # whether a task looks for records, or was woken to do so
        self._is_stopping = False
        self._clean_context: CleanContext | None = None
        self._held = 0  # records whose handler has suspended
        self.slots: list[TaskSlot] = []
        self._watch = TimeoutWatchdog(self.slots, timeouts_s)
        self.on_held: OnHeld = lambda *_, **__: None

    def wake(self, processor: PartitionProcessor) -> None:
        """Note that *processor* may have a record to start."""
        if self._clean_context is None:  # no event has started yet that could have changed it
            self._clean_context = CleanContext()
        if not processor.is_listed:
            self._list(processor)
        if not self._has_leader:
            self._promote_follower()

    def resize(self, concurrency: int) -> None:
        """Process at most *concurrency* records at once.

        Held records beyond that end first.
        """
        self._concurrency = concurrency
        if not self._has_leader:
            self._promote_follower()

    async def stop(self) -> None:
        """End the tasks, even those whose handlers suppress cancellation."""
        self._is_stopping = True
        self._watch.stop()
        # A task whose handler suppresses the cancellation goes on, and is cancelled again.
        while self._tasks:
            for unit in filter(None, (hand.unit for hand in self.slots)):
                unit.is_stopped, unit.is_timed_out = True, False  # cancelled by the stop alone
            for task in self._tasks:
                task.cancel()
            _, self._tasks = await asyncio.wait(self._tasks, timeout=STOP_AGAIN_S)

    @property
    def is_full(self) -> bool:
        """Return whether as many records are held as *concurrency* allows."""
        return self._held >= self._concurrency

    def holds(self, processor: PartitionProcessor) -> bool:
        """Return whether a live task holds a record of *processor*."""
        return any(
            hand.processor is processor
            and hand.is_held
            and hand.task is not None
            and not hand.task.done()
            for hand in self.slots
        )

    def overdue(self, deadline_s: float) -> list[dict[str, object]]:
        """Return the events that have been held for longer than *deadline_s* seconds.

        Each has its position, the digest of its key, its handler, and the seconds. Keys are
        private, so only the digest is given.
        """
        now = time.monotonic()
        return [
            hand.as_json(now)
            for hand in self.slots
            if hand.record is not None and now - hand.since > deadline_s
        ]

    def _promote_follower(self) -> None:
        """Wake or make another task as the leader, if there may be a record for it."""
        self._has_leader = False
        if not self._processors or self._held >= self._concurrency:
            return
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._has_leader = True
                return
        if len(self._tasks) < self._concurrency:
            assert self._clean_context is not None
            self._has_leader = True
            hand = TaskSlot(self._clean_context)
            self.slots.append(hand)
            work = notify_on_suspend(hand, lambda: self._work(hand), lambda: self._hold(hand))
            # Not in the slot's own context, which cannot be entered twice at once.
            hand.task = asyncio.create_task(
                work, name=f"crew-{len(self._tasks)}", context=self._clean_context.context.copy()
            )
            hand.task.add_done_callback(self._check_end)
            self._tasks.add(hand.task)

    async def _work(self, hand: TaskSlot) -> None:
        """Run one task: lead, then wait to be promoted again."""
        while not self._is_stopping:
            await self._lead(hand)
            is_told = False
            while not is_told:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                is_told = await self._undisturbed(waiter)

    async def _undisturbed(self, waits_for: Awaitable[object]) -> bool:
        """Wait for *waits_for*, and survive a cancellation that is not the pool's stop.

        Returns False when such a cancellation ended the wait. A handler may cancel its own task and
        return, or cancel every task that there is.
        """
        try:
            await waits_for
        except asyncio.CancelledError:
            if self._is_stopping:
                raise
            forget_cancellations()
            return isinstance(waits_for, asyncio.Future) and not waits_for.cancelled()
        return True

    def _check_end(self, task: asyncio.Task[None]) -> None:
        """Report a task that has ended although the pool did not stop.

        Such an end is a bug of this package, and the worker must not go on.
        """
        error = None if task.cancelled() else task.exception()
        if error is None and not self._is_stopping:
            error = InvariantError(
                "a task that carries events has ended although the worker goes on"
            )
        if error is not None:
            if not isinstance(error, Exception):
                error = InvariantError(
                    f"a task that carries events has ended with {type(error).__qualname__}"
                )
            self._telling.append(asyncio.ensure_future(self._on_bug(error)))

    async def _lead(self, hand: TaskSlot) -> None:
        """Process records until none is left, or until another task is the leader."""
        hand.was_replaced, hand.rested_at = False, time.monotonic()
        while self._processors and self._held < self._concurrency:
            hand.processor = processor = self._processors[0]
            self._processors.rotate(-1)
            try:
                await self._turn(hand, processor)
            finally:
                hand.started = None
                processor.turn_ended()
            if hand.was_replaced:
                return
            if time.monotonic() - hand.rested_at > SLICE_S:
                await self._undisturbed(asyncio.sleep(0))
                hand.rested_at = time.monotonic()
        self._has_leader = False

    # One long function, since a call for each event would cost time.
    async def _turn(self, hand: TaskSlot, processor: PartitionProcessor) -> None:  # noqa: C901, PLR0912
        """Process some records of *processor*."""
        start, state, done, has_state = (
            processor.lanes.start,
            processor.state,
            processor.done,
            processor.has_state,
        )
        carry = processor.pipeline.carry
        task, clean = hand.task, hand.clean
        assert task is not None
        cancels, size, has_variables = task.cancelling, clean.size, clean.has_variables
        stretch, timing = hand.stretch, processor.timing
        hand.step_at = stretch.began_at = time.monotonic()
        hand.is_watched = is_watched = bool(state.failure_state.held)
        # Numbers of the stretch's first event and of the next timed one, and the step to more.
        begun, timed, apart = processor.choose_timed(0)
        for number in range(TURN_RECORDS):
            if len(copy_context()) != size or cancels() or (has_variables and clean.is_left()):
                await self._clean(hand)
            work = start()
            if work is None:
                self._look_back(hand, is_sure=number - begun == 1)
                timing.passed(stretch, number - begun, hand.step_at, hand.started)
                if processor.refill():
                    hand.step_at = stretch.began_at = time.monotonic()
                    begun, timed, apart = processor.choose_timed(number + 1)
                    continue
                if not processor.has_more:
                    timing.rests(stretch)
                self._unlist(processor)
                return
            hand.started = work
            try:
                if number == timed:
                    timed += apart
                    outcome = await timing.carry(stretch, work, state)
                else:
                    outcome = await carry(work, state)
                # As `PartitionProcessor.ended` does, without a call for nearly every event.
                if work[2] is None and outcome == "handled":
                    (state.filling.handled if has_state or state.filling.outbox else done).append(
                        work[1].offset
                    )
                else:
                    processor.ended(work, outcome)
            except Defer as rest:
                processor.rest(work, rest, is_held=hand.is_held)
                if hand.is_held:
                    begun, timed, apart = self._let_go(hand, processor, number, begun)
            finally:
                if hand.is_held:
                    processor.finish(work[0])
                    begun, timed, apart = self._let_go(hand, processor, number, begun)
            if is_watched:
                self._look_back(hand, is_sure=True)
            if hand.was_replaced:
                break
        self._look_back(hand, is_sure=number - begun == 0)
        timing.passed(stretch, number - begun + 1, hand.step_at, hand.started)

    def _look_back(self, hand: TaskSlot, *, is_sure: bool) -> None:
        """Report an event that has blocked the event loop for more than HELD_S seconds.

        Events are not timed one by one, unless one of the partition has blocked a worker before.
        *is_sure* means that no other event ran since the last call.
        """
        now = time.monotonic()
        if now - hand.step_at > HELD_S and hand.started is not None and hand.processor is not None:
            self.on_held(hand.processor, hand.started, now - hand.step_at, is_sure=is_sure)
        hand.step_at = now

    async def _clean(self, hand: TaskSlot) -> None:
        """Clear the context variables and cancellations that an event has left."""
        hand.started = None
        await RENEWAL
        if forget_cancellations():
            since = time.monotonic()
            await self._undisturbed(asyncio.sleep(0))  # a pending CancelledError is raised here
            hand.stretch.began_at += time.monotonic() - since

    def _hold(self, hand: TaskSlot) -> None:
        """Note that the task of *hand* suspends, before it does.

        If it is processing an event, hold this event, and promote another task to leader.
        """
        self._look_back(hand, is_sure=hand.is_held or hand.is_watched)
        hand.unit = unit = hand.context.run(current_unit)
        if unit is not None:
            unit.suspend()
        if hand.processor is not None:
            hand.processor.turn_ended()
        if hand.processor is not None and hand.started is not None and not hand.is_held:
            hand.processor.lanes.hold(hand.started[0])
            hand.is_held, hand.since = True, time.monotonic()
            hand.stretch.waits_since = hand.since
            self._held += 1
            self._watch.begin()
            self._promote_follower()

    def _let_go(
        self, hand: TaskSlot, processor: PartitionProcessor, number: int, begun: int
    ) -> tuple[int, int, int]:
        """Release the event that the task held, which has ended or is deferred.

        The task leads again unless another one does. No task leads while more events are held than
        allowed. *number* is that of the event, *begun* that of the first event of its stretch.
        Returns the result of `PartitionProcessor.choose_timed` for the next stretch.
        """
        self._look_back(hand, is_sure=True)
        assert hand.started is not None
        processor.timing.waited(hand.stretch, hand.started[1], number - begun, hand.step_at)
        hand.is_held, hand.rested_at = False, hand.step_at
        self._held -= 1
        if processor.has_more and not processor.is_listed:
            self._list(processor)
        hand.was_replaced = self._has_leader or self._held >= self._concurrency
        self._has_leader = self._has_leader or not hand.was_replaced
        return processor.choose_timed(number + 1)

    def _list(self, processor: PartitionProcessor) -> None:
        processor.is_listed = True
        self._processors.append(processor)

    def _unlist(self, processor: PartitionProcessor) -> None:
        if processor.is_listed:
            processor.is_listed = False
            self._processors.remove(processor)
