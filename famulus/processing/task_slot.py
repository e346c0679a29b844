"""A task of the crew: what it has in hand, how the crew hears that it waits, what ends attempts that take too long.

A task carries one event after the other, so it has to begin each one clean: in a context without
the variables that an earlier handler has set, and without a cancellation that an earlier handler
has asked for.
"""

import asyncio
import decimal
import time
import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from famulus.observability.hot_keys import digest_of
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.pipeline import WorkItem
from famulus.processing.timing import Stretch
from famulus.serialization.records import ConsumerRecord
from famulus.state.unit_of_work import UnitOfWork, enter

WATCH_MIN_S, WATCH_MAX_S = 0.01, 1.0  # between two looks at how long attempts take


@dataclass(slots=True)
class TaskSlot:
    """What one task of the crew does.

    *started*: an event, held since *since* if it did not end at once.

    Times are seconds by the monotonic clock.
    """

    clean: "CleanContext"
    context: Context = field(init=False)  # in which its steps run
    processor: PartitionProcessor | None = None
    started: WorkItem | None = None
    is_held: bool = False
    was_replaced: bool = False  # another task took the duty while this one held its record
    since: float = 0.0
    rested_at: float = 0.0  # when the event loop had its last turn
    step_at: float = 0.0  # when it had its last turn, or looked how long an event took
    is_watched: bool = False  # whether each event of the flow is timed
    task: asyncio.Task[None] | None = None
    # That was seen last: since when the record is held, and the handler.
    attempt: tuple[float, str] = (0.0, "")
    attempt_since: float = 0.0
    stretch: Stretch = field(default_factory=Stretch)
    unit: UnitOfWork | None = None  # of the event in hand, as of the last time that it waited

    def __post_init__(self) -> None:
        """Begin in a context of its own."""
        self.renew()

    def renew(self) -> None:
        """Forget every context variable that was set since the crew began."""
        self.context = self.clean.context.copy()

    @property
    def record(self) -> ConsumerRecord | None:
        """The record that is held."""
        return self.started[1] if self.started is not None and self.is_held else None

    def as_json(self, now: float) -> dict[str, object]:
        """Where the held record stands, its key's digest, its handler, for how long: of plain values."""
        record, unit = self.record, self.unit
        assert record is not None
        return {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key_digest": digest_of(record.key or b""),
            "handler": unit.handler if unit is not None else "",
            "seconds": round(now - self.since, 1),
        }


class TimeoutWatchdog:
    """Ends the attempts of *hands* that take too long: *timeouts_s* says how long, by the handler's name.

    It looks every so often while anything is held: a timer for each event would cost more than many
    events.
    """

    def __init__(self, slots: Sequence[TaskSlot], timeouts_s: Mapping[str, float]) -> None:
        self._slots, self._timeouts_s = slots, timeouts_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Something is held."""
        if self._timer is None and self._timeouts_s:
            self._look_later()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        now, is_any = time.monotonic(), False
        for hand in self._slots:
            if hand.record is not None:
                is_any = True
                self._check(hand, now)
        if is_any:
            self._look_later()

    def _look_later(self) -> None:
        step_s = min(max(min(self._timeouts_s.values()) / 20, WATCH_MIN_S), WATCH_MAX_S)
        self._timer = asyncio.get_running_loop().call_later(step_s, self._look)

    def _check(self, hand: TaskSlot, now: float) -> None:
        unit = hand.unit
        if unit is None:
            return
        attempt = hand.since, unit.handler
        if attempt != hand.attempt:
            # Else another handler had its turn at the event before.
            is_first = hand.attempt[0] != hand.since
            hand.attempt, hand.attempt_since = attempt, hand.since if is_first else now
        limit_s = self._timeouts_s.get(unit.handler)
        if limit_s and now - hand.attempt_since > limit_s and not unit.is_timed_out:
            unit.is_timed_out = True  # whoever carries it takes the cancellation back
            assert hand.task is not None
            hand.task.cancel()


class CleanContext:
    """The context in which every event begins, and how to see that an event has left another one.

    Python has no way to compare contexts quickly, and this is asked after each event. A variable
    that was set for the first time makes the context larger. One that was there from the beginning
    is looked at, which nearly no crew has.
    """

    def __init__(self) -> None:
        self.context = copy_context()
        # Every Decimal that is decoded asks for decimal's context, so each event would seem to
        # leave something.
        self.context.run(decimal.getcontext)
        # Faust's own variables tell of the agent that woke the crew; decimal's is one object for
        # the whole process.
        own = {
            of
            for of in self.context
            if of.name.startswith("_current_") or of.name == "decimal_context"
        }
        self._kept = [(of.get, value) for of, value in self.context.items() if of not in own]
        self.context.run(enter, None)
        self.size = len(self.context)

    def is_left(self) -> bool:
        """Whether a variable that was there from the beginning has another value now."""
        # `any` would make a generator after each event.
        for get, value in self._kept:  # noqa: SIM110
            if get() is not value:
                return True
        return False

    @property
    def has_variables(self) -> bool:
        """Whether there is anything for `is_left` to look at."""
        return bool(self._kept)


class _Renewal:
    """What a task yields to have its next step run in a renewed context."""

    def __await__(self) -> Generator[Any, None, None]:
        yield self


RENEWAL = _Renewal()


async def notify_on_suspend(
    hand: TaskSlot, begin: Callable[[], Coroutine[Any, Any, None]], on_wait: Callable[[], None]
) -> None:
    """Run what *begin* makes in the context of *hand*, and call *on_wait* before each time that it waits."""
    await _drive(hand, begin(), on_wait)


@types.coroutine
def _drive(
    hand: TaskSlot, coroutine: Coroutine[Any, Any, None], on_wait: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Do what `await` does (PEP 380), each step in the context that *hand* has by then."""
    step: Callable[[Any], Any] = coroutine.send
    answer: Any = None
    try:
        while True:
            hand.step_at = time.monotonic()
            awaited = hand.context.run(step, answer)
            if awaited is RENEWAL:
                hand.renew()
                step, answer = coroutine.send, None
                continue
            on_wait()
            try:
                step, answer = coroutine.send, (yield awaited)
            except BaseException as error:  # a cancellation, most of all
                step, answer = coroutine.throw, error
    except StopIteration:
        return
