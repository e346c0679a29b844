"""The crew: a fixed number of tasks that carry the records of all partitions, so that none needs a task of its own.

One task is on duty and starts what is there, one record after the other. A handler that never suspends costs nothing
but its call. When one suspends, its task holds on to it and another has the duty, and so on up to `concurrency`. Every
task is a real asyncio task from the handler's first step on, so `asyncio.timeout` and everything else that asks for the
current task works in handlers.
"""

import asyncio
import time
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Hashable
from contextvars import Context, copy_context
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

from app.engine.flow import Flow, Work
from app.engine.pipeline import Abandoned
from app.state.unit import Unit, current_unit
from app.wire.envelope import Outcome

T = TypeVar("T")
TURN_RECORDS = 50  # of one partition before the next one has its turn
SLICE_S = 0.005  # of work before the event loop has its turn


@dataclass(slots=True)
class Hand:
    """What one task of the crew holds, if anything. *since*: by the monotonic clock, seconds."""

    context: Context
    work: Work | None = None
    since: float = 0.0

    @property
    def unit(self) -> Unit | None:
        """The unit of the event in hand."""
        return self.context.run(current_unit)


class Crew:
    """At most *concurrency* records in hand at once. *on_bug* is told what a task did not survive."""

    def __init__(self, concurrency: int, on_bug: Callable[[Exception], Awaitable[Any]]) -> None:
        self._concurrency = concurrency
        self._on_bug = on_bug
        self._flows: deque[Flow] = deque()  # that may have a record to start
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._is_on_duty = False  # whether a task looks for work, or has been told to
        self.hands: list[Hand] = []

    def wake(self, flow: Flow) -> None:
        """There may be something to start in *flow*."""
        if not flow.is_listed:
            self._list(flow)
        if not self._is_on_duty:
            self._hand_over_duty()

    async def stop(self) -> None:
        """End the tasks, whatever they do."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    def overdue(self, deadline_s: float) -> list[dict[str, object]]:
        """The events that are in hand for longer than *deadline_s*: where they stand, their key's digest, for how long.

        Keys are private, so only a digest is told.
        """
        now = time.monotonic()
        return [
            {
                "topic": hand.work[0].topic, "partition": hand.work[0].partition, "offset": hand.work[0].offset,
                "key_digest": blake2b(hand.work[0].key or b"", digest_size=8).hexdigest(),
                "handler": hand.unit.handler if hand.unit else "", "seconds": round(now - hand.since, 1),
            }
            for hand in self.hands
            if hand.work is not None and now - hand.since > deadline_s
        ]  # fmt: skip

    def _hand_over_duty(self) -> None:
        """Have another task look for work, if there may be some and a task is free or can be made."""
        self._is_on_duty = False
        if not self._flows:
            return
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._is_on_duty = True
                return
        if len(self._tasks) < self._concurrency:
            self._is_on_duty = True
            hand = Hand(copy_context())
            self.hands.append(hand)
            task = asyncio.create_task(self._work(hand), name=f"crew-{len(self._tasks)}", context=hand.context)
            self._tasks.add(task)

    async def _work(self, hand: Hand) -> None:
        try:
            while True:
                await self._be_on_duty(hand)
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
        except Exception as error:  # noqa: BLE001  # an assertion of ours: the worker must not go on
            await self._on_bug(error)

    async def _be_on_duty(self, hand: Hand) -> None:
        """Carry what is there until nothing is, or another task has taken the duty."""
        yielded = time.monotonic()
        while self._flows:
            flow = self._flows[0]
            self._flows.rotate(-1)
            for _ in range(TURN_RECORDS):
                started = flow.lanes.start()
                if started is None:
                    self._unlist(flow)
                    break
                lane, work = started
                carrying = flow.carry(work)
                try:
                    awaited = carrying.send(None)
                except StopIteration as end:
                    flow.ended(work[0], end.value)
                except Abandoned:
                    pass
                else:
                    if not await self._hold(hand, flow, lane, work, _rest(carrying, awaited)):
                        return
                    yielded = time.monotonic()
            if time.monotonic() - yielded > SLICE_S:
                await asyncio.sleep(0)
                yielded = time.monotonic()
        self._is_on_duty = False

    async def _hold(self, hand: Hand, flow: Flow, lane: Hashable, work: Work, rest: Awaitable[Outcome]) -> bool:
        """Carry on with a record whose handler has suspended. Returns whether the duty is this task's when it ends."""
        flow.lanes.hold(lane)
        hand.work, hand.since = work, time.monotonic()
        self._hand_over_duty()
        try:
            flow.ended(work[0], await rest)
        except Abandoned:
            pass
        finally:
            hand.work = None
            flow.finish(lane)
        if flow.lanes.waiting and not flow.is_listed:
            self._list(flow)
        if self._is_on_duty:
            return False
        self._is_on_duty = True
        return True

    def _list(self, flow: Flow) -> None:
        flow.is_listed = True
        self._flows.append(flow)

    def _unlist(self, flow: Flow) -> None:
        if flow.is_listed:
            flow.is_listed = False
            self._flows.remove(flow)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine after its first step, which asked for *awaited* (PEP 380 in slow motion)."""
    try:
        while True:
            try:
                answer = yield awaited
            except BaseException as error:  # noqa: BLE001  # a cancellation, most of all
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
