"""The crew: a fixed number of tasks that carry the records of all partitions, so that none needs a task of its own.

A handler that never suspends runs inline: one task goes through everything that is there. When a handler does suspend,
a second task takes the next record meanwhile, and so on up to `concurrency`. Every task is a real asyncio task from the
handler's first step on, so `asyncio.timeout` and everything else that asks for the current task works in handlers.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from app.engine.flow import Flow, Work
from app.engine.pipeline import Abandoned
from app.state.unit import Unit, current_unit

TURN_RECORDS = 50  # of one partition before the next one has its turn
SLICE_S = 0.005  # of work before the event loop has its turn


@dataclass(slots=True)
class Hand:
    """What one task of the crew has in hand, nothing when *flow* is None. *since*: by the monotonic clock, seconds."""

    context: Context
    flow: Flow | None = None
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
        self._relief_called = False
        self.hands: list[Hand] = []

    def wake(self, flow: Flow) -> None:
        """There may be something to start in *flow*."""
        if not flow.is_listed:
            self._list(flow)
        self._call_relief()

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

    def _call_relief(self) -> None:
        """Have one more task look for work, unless one is on its way or all have something in hand."""
        if self._relief_called:
            return
        while self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._relief_called = True
                return
        if len(self._tasks) < self._concurrency:
            self._relief_called = True
            hand = Hand(copy_context())
            self.hands.append(hand)
            task = asyncio.create_task(self._work(hand), name=f"crew-{len(self._tasks)}", context=hand.context)
            self._tasks.add(task)

    async def _work(self, hand: Hand) -> None:
        try:
            while True:
                self._relief_called = False
                await self._carry_what_is_there(hand)
                waiter = asyncio.get_running_loop().create_future()
                self._idle.append(waiter)
                await waiter
        except Exception as error:  # noqa: BLE001  # an assertion of ours: the worker must not go on
            await self._on_bug(error)

    async def _carry_what_is_there(self, hand: Hand) -> None:
        yielded = time.monotonic()
        while self._flows:
            flow = self._flows[0]
            self._flows.rotate(-1)
            for _ in range(TURN_RECORDS):
                started = flow.lanes.start()
                if started is None:
                    self._unlist(flow)
                    break
                lane, hand.work = started
                record = hand.work[0]
                if not self._relief_called and (flow.lanes.waiting or len(self._flows) > 1):
                    self._call_relief()
                hand.flow, hand.since = flow, time.monotonic()
                try:
                    flow.ended(record, await flow.carry(hand.work))
                except Abandoned:
                    pass
                finally:
                    hand.flow = hand.work = None
                    flow.finish(lane)
                if not flow.is_listed and flow.lanes.waiting:
                    self._list(flow)
            now = time.monotonic()
            if now - yielded > SLICE_S:
                await asyncio.sleep(0)
                yielded = time.monotonic()

    def _list(self, flow: Flow) -> None:
        flow.is_listed = True
        self._flows.append(flow)

    def _unlist(self, flow: Flow) -> None:
        if flow.is_listed:
            flow.is_listed = False
            self._flows.remove(flow)
