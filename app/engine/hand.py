"""A task of the crew: what it has in hand, how the crew hears that it waits, what ends attempts that take too long."""

import asyncio
import time
import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from app.engine.flow import Flow
from app.engine.pipeline import Work
from app.observe.hotkeys import digest_of
from app.state.unit import Unit, current_unit
from app.wire.envelope import Record

WATCH_MIN_S, WATCH_MAX_S = 0.01, 1.0  # between two looks at how long attempts take


@dataclass(slots=True)
class Hand:
    """What one task of the crew does. *started*: an event, held since *since* if it did not end at once.

    Times are seconds by the monotonic clock.
    """

    context: Context
    flow: Flow | None = None
    started: Work | None = None
    is_held: bool = False
    is_relieved: bool = False  # another task took the duty while this one held its record
    since: float = 0.0
    rested_at: float = 0.0  # when the event loop had its last turn
    task: asyncio.Task[None] | None = None
    attempt: tuple[float, str] = (0.0, "")  # that was seen last: since when the record is held, and the handler
    attempt_since: float = 0.0

    @property
    def record(self) -> Record | None:
        """The record that is held."""
        return self.started[1] if self.started is not None and self.is_held else None

    @property
    def unit(self) -> Unit | None:
        """The unit of the event in hand."""
        return self.context.run(current_unit)

    def as_json(self, now: float) -> dict[str, object]:
        """Where the held record stands, its key's digest, its handler, for how long: of plain values."""
        record, unit = self.record, self.unit
        assert record is not None
        return {
            "topic": record.topic, "partition": record.partition, "offset": record.offset,
            "key_digest": digest_of(record.key or b""), "handler": unit.handler if unit is not None else "",
            "seconds": round(now - self.since, 1),
        }  # fmt: skip


class Watch:
    """Ends the attempts of *hands* that take too long: *timeouts_s* says how long, by the handler's name.

    It looks every so often while anything is held: a timer for each event would cost more than many events.
    """

    def __init__(self, hands: Sequence[Hand], timeouts_s: Mapping[str, float]) -> None:
        self._hands, self._timeouts_s = hands, timeouts_s
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
        for hand in self._hands:
            if hand.record is not None:
                is_any = True
                self._check(hand, now)
        if is_any:
            self._look_later()

    def _look_later(self) -> None:
        step_s = min(max(min(self._timeouts_s.values()) / 20, WATCH_MIN_S), WATCH_MAX_S)
        self._timer = asyncio.get_running_loop().call_later(step_s, self._look)

    def _check(self, hand: Hand, now: float) -> None:
        unit = hand.unit
        if unit is None:
            return
        attempt = hand.since, unit.handler
        if attempt != hand.attempt:
            is_first = hand.attempt[0] != hand.since  # else another handler had its turn at the event before
            hand.attempt, hand.attempt_since = attempt, hand.since if is_first else now
        limit_s = self._timeouts_s.get(unit.handler)
        if limit_s and now - hand.attempt_since > limit_s and not unit.is_timed_out:
            unit.is_timed_out = True  # whoever carries it takes the cancellation back
            assert hand.task is not None
            hand.task.cancel()


async def told_of_waits(begin: Callable[[], Coroutine[Any, Any, None]], on_wait: Callable[[], None]) -> None:
    """Run what *begin* makes, and call *on_wait* before each time that it waits for something."""
    await _driven(begin(), on_wait)


@types.coroutine
def _driven(coroutine: Coroutine[Any, Any, None], on_wait: Callable[[], None]) -> Generator[Any, Any, None]:
    """What `await` does, step by step (PEP 380)."""
    try:
        awaited = coroutine.send(None)
        while True:
            on_wait()
            try:
                answer = yield awaited
            except BaseException as error:  # noqa: BLE001  # a cancellation, most of all
                awaited = coroutine.throw(error)
            else:
                awaited = coroutine.send(answer)
    except StopIteration:
        return
