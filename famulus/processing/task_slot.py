"""Task slot: one task of the pool, with the event that it holds.

A task processes one event after the other, so it has to begin each one clean: in a context without
the variables that an earlier handler has set, and without a cancellation that an earlier handler
has requested. A watchdog cancels attempts that take too long.
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

WATCH_MIN_S, WATCH_MAX_S = 0.01, 1.0  # between two checks of how long attempts take


@dataclass(slots=True)
class TaskSlot:
    """One task of the pool, and the event that it processes.

    *started* is the event. If it did not end at once, it is held (*is_held*) since *since*.

    Times are seconds of the monotonic clock.
    """

    clean: "CleanContext"
    context: Context = field(init=False)  # the one that its steps run in
    processor: PartitionProcessor | None = None
    started: WorkItem | None = None
    is_held: bool = False
    was_replaced: bool = False  # another task became the leader while this one held its record
    since: float = 0.0
    rested_at: float = 0.0  # when the event loop last ran other tasks
    step_at: float = 0.0  # when it last did, or when the pool last checked for a blocking event
    is_watched: bool = False  # whether each event of the partition is checked for blocking
    task: asyncio.Task[None] | None = None
    # Seen last by the watchdog: since when the record is held, and the handler.
    attempt: tuple[float, str] = (0.0, "")
    attempt_since: float = 0.0
    stretch: Stretch = field(default_factory=Stretch)
    unit: UnitOfWork | None = None  # of the held event, as of the last time that it suspended

    def __post_init__(self) -> None:
        """Begin in a context of its own."""
        self.renew()

    def renew(self) -> None:
        """Forget every context variable that was set since the pool began."""
        self.context = self.clean.context.copy()

    @property
    def record(self) -> ConsumerRecord | None:
        """Return the record that is held, None if there is none."""
        return self.started[1] if self.started is not None and self.is_held else None

    def as_json(self, now: float) -> dict[str, object]:
        """Return the held record as plain values for JSON.

        Keys: its position, the digest of its key, its handler, and the seconds for which it is
        held.
        """
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
    """Cancels the attempts of *slots* that exceed their timeout.

    *timeouts_s* has the timeouts in seconds, by the handler's name. The watchdog checks at
    intervals while any event is held, since a timer for each event would cost more than many an
    event.
    """

    def __init__(self, slots: Sequence[TaskSlot], timeouts_s: Mapping[str, float]) -> None:
        self._slots, self._timeouts_s = slots, timeouts_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Start checking, because an event is held."""
        if self._timer is None and self._timeouts_s:
            self._look_later()

    def stop(self) -> None:
        """Cancel the next check."""
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
            # If it is not the first, another handler of the same event ran before.
            is_first = hand.attempt[0] != hand.since
            hand.attempt, hand.attempt_since = attempt, hand.since if is_first else now
        limit_s = self._timeouts_s.get(unit.handler)
        if limit_s and now - hand.attempt_since > limit_s and not unit.is_timed_out:
            unit.is_timed_out = True  # the pipeline withdraws the cancellation later
            assert hand.task is not None
            hand.task.cancel()


class CleanContext:
    """The context in which every event begins, and the check that an event left it unchanged.

    Python cannot compare contexts quickly, and this check runs after each event. A variable that
    was set for the first time makes the context larger. Variables that existed from the beginning
    are compared one by one; nearly no pool has any.
    """

    def __init__(self) -> None:
        self.context = copy_context()
        # Decoding a Decimal sets decimal's context variable, so each event would seem to have
        # changed the context.
        self.context.run(decimal.getcontext)
        # Faust's own variables name the agent that woke the pool. The one of decimal is a single
        # object in the whole process. Neither is checked.
        own = {
            of
            for of in self.context
            if of.name.startswith("_current_") or of.name == "decimal_context"
        }
        self._kept = [(of.get, value) for of, value in self.context.items() if of not in own]
        self.context.run(enter, None)
        self.size = len(self.context)

    def is_left(self) -> bool:
        """Return whether a variable that existed from the beginning has another value now."""
        # `any` would make a generator for each event.
        for get, value in self._kept:  # noqa: SIM110
            if get() is not value:
                return True
        return False

    @property
    def has_variables(self) -> bool:
        """Return whether `is_left` has any variables to check."""
        return bool(self._kept)


class _Renewal:
    """The value that a task yields to run its next step in a renewed context."""

    def __await__(self) -> Generator[Any, None, None]:
        yield self


RENEWAL = _Renewal()


async def notify_on_suspend(
    hand: TaskSlot, begin: Callable[[], Coroutine[Any, Any, None]], on_wait: Callable[[], None]
) -> None:
    """Run the coroutine that *begin* makes in the context of *hand*.

    *on_wait* is called before each time that the coroutine suspends.
    """
    await _drive(hand, begin(), on_wait)


@types.coroutine
def _drive(
    hand: TaskSlot, coroutine: Coroutine[Any, Any, None], on_wait: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await *coroutine* (PEP 380), each step in the current context of *hand*."""
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
            except BaseException as error:  # mostly a cancellation
                step, answer = coroutine.throw, error
    except StopIteration:
        return
