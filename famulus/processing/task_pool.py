"""The crew: a fixed number of tasks that carry the records of all partitions, so that none needs a task of its own.

One task is on duty and starts what is there, one record after the other. A handler that never
suspends costs nothing but its call. When one suspends, its task holds on to it and another has the
duty, and so on up to `concurrency`. Every task is a real asyncio task from the handler's first step
on, so `asyncio.timeout` and everything else that asks for the current task works in handlers.

A task outlives whatever a handler does: nothing but the crew's own stop ends one, and none passes
on to the next event what a handler did to it, see `hand`.
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

TURN_RECORDS = 50  # of one partition before the next one has its turn
SLICE_S = 0.005  # of work before the event loop has its turn
HELD_S = 5.0  # without a turn of the event loop; sessions with the group are longer
STOP_AGAIN_S = 1.0  # between two times that a task is told to end


class OnHeld(Protocol):
    """Is told of an event that has held the event loop."""

    def __call__(
        self, processor: PartitionProcessor, work: WorkItem, seconds: float, *, is_sure: bool
    ) -> None:
        """Note that. Where it is not sure, it may have been an event shortly before."""


class TaskPool:
    """At most *concurrency* records in hand at once. *on_bug* is told what a task did not survive.

    *timeouts_s* says how long an attempt may take, by the handler's name; those of handlers that
    are not in it may take for ever.
    """

    def __init__(
        self,
        concurrency: int,
        on_bug: Callable[[Exception], Awaitable[Any]],
        timeouts_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._concurrency = concurrency
        # So that they are not collected before they are done.
        self._telling: list[asyncio.Future[Any]] = []
        self._on_bug = on_bug
        self._processors: deque[PartitionProcessor] = deque()  # that may have a record to start
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._has_leader = False  # whether a task looks for work, or has been told to
        self._is_stopping = False
        self._clean_context: CleanContext | None = None
        self._held = 0  # records in hand
        self.slots: list[TaskSlot] = []
        self._watch = TimeoutWatchdog(self.slots, timeouts_s)
        self.on_held: OnHeld = lambda *_, **__: None

    def wake(self, processor: PartitionProcessor) -> None:
        """There may be something to start in *flow*."""
        if self._clean_context is None:  # no event has begun yet, so nothing of one is in it
            self._clean_context = CleanContext()
        if not processor.is_listed:
            self._list(processor)
        if not self._has_leader:
            self._promote_follower()

    def resize(self, concurrency: int) -> None:
        """Have at most so many records in hand at once; those that are in hand beyond that end first."""
        self._concurrency = concurrency
        if not self._has_leader:
            self._promote_follower()

    async def stop(self) -> None:
        """End the tasks, whatever they do."""
        self._is_stopping = True
        self._watch.stop()
        # One whose handler made something else of it goes on, until it is told again.
        while self._tasks:
            for unit in filter(None, (hand.unit for hand in self.slots)):
                unit.is_stopped, unit.is_timed_out = True, False  # what reaches it now is the end
            for task in self._tasks:
                task.cancel()
            _, self._tasks = await asyncio.wait(self._tasks, timeout=STOP_AGAIN_S)

    @property
    def is_full(self) -> bool:
        """Whether as many records are in hand as may be."""
        return self._held >= self._concurrency

    def holds(self, processor: PartitionProcessor) -> bool:
        """Whether a task that lives has a record of *flow* in hand."""
        return any(
            hand.processor is processor
            and hand.is_held
            and hand.task is not None
            and not hand.task.done()
            for hand in self.slots
        )

    def overdue(self, deadline_s: float) -> list[dict[str, object]]:
        """The events that are in hand for longer than *deadline_s*: where they stand, their key's digest, for how long.

        Keys are private, so only a digest is told.
        """
        now = time.monotonic()
        return [
            hand.as_json(now)
            for hand in self.slots
            if hand.record is not None and now - hand.since > deadline_s
        ]

    def _promote_follower(self) -> None:
        """Have another task look for work, if there may be some and a task is free or can be made."""
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
            # Not in the hand's own context, which no two steps may be in at once.
            hand.task = asyncio.create_task(
                work, name=f"crew-{len(self._tasks)}", context=self._clean_context.context.copy()
            )
            hand.task.add_done_callback(self._check_end)
            self._tasks.add(hand.task)

    async def _work(self, hand: TaskSlot) -> None:
        """What each task does: be on duty, then wait for the next time."""
        while not self._is_stopping:
            await self._lead(hand)
            is_told = False
            while not is_told:
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                is_told = await self._undisturbed(waiter)

    async def _undisturbed(self, waits_for: Awaitable[object]) -> bool:
        """Wait for something of our own.

        False when a cancellation ended it that is not the crew's stop.

        A handler may cancel its own task and return, or cancel every task that there is.
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
        """A task ends when the crew stops.

        Anything else is a bug of ours, and the worker must not go on.
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
        """Carry what is there until nothing is, or until another task has the duty."""
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

    # A call for each event would cost.
    async def _turn(self, hand: TaskSlot, processor: PartitionProcessor) -> None:  # noqa: C901, PLR0912
        """Carry some records of *flow*."""
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
        # The numbers of the first event of the stretch, and of the next one that is timed.
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
                # What `Flow.ended` does, without a call for nearly every event.
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
        """Tell of an event that has held the event loop.

        Not each is timed, unless one of the partition did so before.

        *is_sure*: no other one was at work in this step.
        """
        now = time.monotonic()
        if now - hand.step_at > HELD_S and hand.started is not None and hand.processor is not None:
            self.on_held(hand.processor, hand.started, now - hand.step_at, is_sure=is_sure)
        hand.step_at = now

    async def _clean(self, hand: TaskSlot) -> None:
        """Leave nothing of an event to the next one: neither its context variables nor a cancellation of the task."""
        hand.started = None
        await RENEWAL
        if forget_cancellations():
            since = time.monotonic()
            await self._undisturbed(asyncio.sleep(0))  # where one that is on its way arrives
            hand.stretch.began_at += time.monotonic() - since

    def _hold(self, hand: TaskSlot) -> None:
        """The task waits for something: when it is in the middle of a record, another one takes the duty."""
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
        """What was held has ended, or rests: the task goes on with the duty, if no other one has it by now.

        Nobody does while more is in hand than may be by now. It had this *number*, and its stretch
        begins with *begun*. Returns what `Flow.choose_timed` says of the next one.
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
