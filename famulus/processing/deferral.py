"""Deferral: an event that cannot finish now is set aside until a condition is met.

No task works on a deferred event, and it does not count against its partition's limit of lanes. Its
lane stays blocked, so no later event of its key overtakes it. Its `RetryContext` keeps the progress
so far.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from famulus.deadletter.redelivery import Redelivery
from famulus.processing.handlers import Handler
from famulus.state.failure_state import Attempts
from famulus.state.partition_state import Finished
from famulus.state.unit_of_work import UnitOfWork, Waiters

REDRIVEN = -1  # the stage of a redriven event, which is in no retry topic
Cancel = Callable[[], object]
# Takes the callback that resumes the event; returns a function that cancels the wait.
Until = Callable[[Callable[[], None]], Cancel]


@dataclass(slots=True)
class RetryContext:
    """Progress of an event that was deferred, tried before, or redelivered.

    *unit* has the effects of the handlers so far; None means that the event starts from scratch.
    *tried* counts the failed attempts by handler. *turn* is a future that the event waited for. Its
    result is the queue of events that wait behind this one. *back* is the redelivery of the event,
    if it is one, and *finished* is then called with *place* when the event has ended.
    """

    unit: UnitOfWork | None = None
    tried: Attempts = field(default_factory=dict)
    done: frozenset[str] = frozenset()  # handlers that need not run again
    turn: "asyncio.Future[Waiters] | None" = None
    back: Redelivery | None = None
    finished: Finished | None = None
    place: int = -1  # offset of the redelivery in its own topic
    held: int = 0  # how often the event has blocked the event loop of a worker
    in_hand_s: float = 0.0  # processing time before the deferral; only kept for telemetry

    def left(self, handlers: Sequence[Handler]) -> list[Handler]:
        """Return those of *handlers* that have yet to run."""
        only = self.back.handler if self.back is not None else ""
        return [h for h in handlers if h.name not in self.done and only in ("", h.name)]

    def waiters(self) -> Waiters | None:
        """Return the events that wait behind this one, and forget them."""
        turn, self.turn = self.turn, None
        return turn.result() if turn is not None and turn.done() and not turn.cancelled() else None


def stage_of(past: RetryContext | None) -> int:
    """Return the stage of an event that blocks a worker, as `control.hold_ups` numbers it.

    0 is the event's lane, n the nth retry topic, and REDRIVEN a redriven dead letter.
    """
    if past is None or past.back is None:
        return 0
    return past.back.stage if past.back.action == "retry" else REDRIVEN


class Defer(Exception):  # noqa: N818  # no error
    """Raised to defer the event until *until* resumes it.

    If *halts* is not empty, nothing more of the partition is started, and *halts* is the reason as
    text.
    """

    def __init__(self, past: RetryContext, until: Until, halts: str = "") -> None:
        super().__init__()
        self.past = past
        self.until = until
        self.halts = halts


def after_delay(delay_s: float) -> Until:
    """Return the condition that *delay_s* seconds have passed."""
    return lambda resume: asyncio.get_running_loop().call_later(delay_s, resume).cancel


def after_unit(turn: "asyncio.Future[Waiters]") -> Until:
    """Return the condition that another event has ended, which completes *turn*.

    The event is not resumed when *turn* is cancelled.
    """

    def wait(resume: Callable[[], None]) -> Cancel:
        turn.add_done_callback(lambda done: None if done.cancelled() else resume())
        return turn.cancel

    return wait


def never(_resume: Callable[[], None]) -> Cancel:
    """Wait until the worker ends or loses the partition."""
    return lambda: None
