"""When an event rests: it is not done, but nobody is at work on it until something is over.

Its lane stays shut meanwhile, so nothing of its key overtakes it; it uses up nobody's hands and not
its partition's share of lanes. What is known of it so far is its `Past`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from famulus.deadletter.redelivery import Redelivery
from famulus.processing.handlers import Handler
from famulus.state.failure_state import Attempts
from famulus.state.partition_state import Finished
from famulus.state.unit_of_work import UnitOfWork, Waiters

REDRIVEN = -1  # no retry topic
Cancel = Callable[[], object]
# Is given what to call when it is over; returns how to wait no more.
Until = Callable[[Callable[[], None]], Cancel]


@dataclass(slots=True)
class RetryContext:
    """What is known of an event that is not handled for the first time, or not at one go.

    *unit* is what handlers have done so far, None: nothing, begin anew. *tried* says how often each
    has failed. *turn* was waited for and says who waits behind this event. *back* is what came
    back, with whom to tell its end.
    """

    unit: UnitOfWork | None = None
    tried: Attempts = field(default_factory=dict)
    done: frozenset[str] = frozenset()  # handlers that need not run again
    turn: "asyncio.Future[Waiters] | None" = None
    back: Redelivery | None = None
    finished: Finished | None = None
    place: int = -1  # the offset that is to be told
    held: int = 0  # how often it has held a worker up
    in_hand_s: float = 0.0  # for how long it was in hand before it rested, where somebody is told

    def left(self, handlers: Sequence[Handler]) -> list[Handler]:
        """Those of *handlers* that have yet to run."""
        only = self.back.handler if self.back is not None else ""
        return [h for h in handlers if h.name not in self.done and only in ("", h.name)]

    def waiters(self) -> Waiters | None:
        """Who waits behind this event by now."""
        turn, self.turn = self.turn, None
        return turn.result() if turn is not None and turn.done() and not turn.cancelled() else None


def stage_of(past: RetryContext | None) -> int:
    """Return where an event is that holds a worker up, as `operate.holdups` numbers it."""
    if past is None or past.back is None:
        return 0
    return past.back.stage if past.back.action == "retry" else REDRIVEN


class Defer(Exception):  # noqa: N818  # no error
    """The event rests *until* something; *halts* says in words why nothing more of its partition is to start."""

    def __init__(self, past: RetryContext, until: Until, halts: str = "") -> None:
        super().__init__()
        self.past = past
        self.until = until
        self.halts = halts


def after_delay(delay_s: float) -> Until:
    """Until so many seconds are over."""
    return lambda resume: asyncio.get_running_loop().call_later(delay_s, resume).cancel


def after_unit(turn: "asyncio.Future[Waiters]") -> Until:
    """Until another event has ended."""

    def wait(resume: Callable[[], None]) -> Cancel:
        turn.add_done_callback(lambda done: None if done.cancelled() else resume())
        return turn.cancel

    return wait


def never(_resume: Callable[[], None]) -> Cancel:
    """Until the worker ends."""
    return lambda: None
