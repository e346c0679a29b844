"""What an error makes of an event in hand: a time-out taken back, a beginning anew, a rest, or a dead letter.

The questions that come before the policy of `failing`: whether it is an error of the event at all.
"""

import asyncio
from collections.abc import Sequence

from app.engine.dispatch import Handler
from app.engine.failing import Failing, GivenUp, UnknownTypeError, words
from app.engine.rest import Past, Rest, after, after_turn, never
from app.errors import DecodeError, HandlerTimeoutError, InvariantError, OperatingError, UnreadableRowError
from app.state.unit import Unit, Unwound
from app.storage.changelog import MARK_BYTES

STORE_RETRY_S = 1.0  # between two tries to read a store whose disk does not let us


def failed(  # noqa: PLR0913, PLR0917  # what is known of the attempt
    failing: Failing, handler: Handler, handlers: Sequence[Handler], error: Exception | asyncio.CancelledError,
    unit: Unit, past: Past | None,
) -> Past:  # fmt: skip
    """An attempt failed, see `Failing.failed`; or the event was undone, whatever its handler made of that."""
    is_timed_out = unit.is_timed_out
    if is_timed_out:
        take_back(unit)
    if isinstance(error, asyncio.CancelledError):
        if not is_timed_out:
            raise error
        error = HandlerTimeoutError(f"not done after {handler.policy.timeout_s:g} s")
    if unit.is_undone:
        raise Unwound
    if isinstance(error, InvariantError):  # damaged state, most of all: no failure of the event
        raise error
    if (row := _unreadable_row(error)) is not None:
        raise _halted(row, unit, past)
    return failing.failed(handler, handlers, error, unit, past)


def not_handled(failing: Failing, error: BaseException, unit: Unit, past: Past | None) -> None:
    """Make a dead letter of the event, or raise what is to happen instead: Rest, or what is no failure of it."""
    if isinstance(error, Rest):
        if error.past.unit is unit:
            unit.is_resting = True
            unit.suspend()  # what it has touched is its own
        raise error
    if unit.is_undone and isinstance(error, (Exception, Unwound, BaseExceptionGroup)):
        raise _again(unit, past) from None
    if isinstance(error, OperatingError) or not isinstance(error, Exception):
        raise error
    _bury(failing, error, unit, past)


def take_back(unit: Unit) -> None:
    """The attempt that was cancelled because of its limit has ended, whatever its handler made of that."""
    unit.is_timed_out = False
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


def _again(unit: Unit, past: Past | None) -> Rest:
    """The event begins anew after another event to which a row belongs, or when the disk is back: `state.unit`."""
    if unit.is_timed_out:
        take_back(unit)
    unit.end()
    unit.is_live = False
    past = past or Past()
    past.unit, past.done = None, frozenset()
    if unit.in_the_way is None:
        return Rest(past, after(STORE_RETRY_S))
    past.turn = unit.turn()
    return Rest(past, after(0) if past.turn is None else after_turn(past.turn))


def _unreadable_row(error: BaseException) -> UnreadableRowError | None:
    """The unreadable row that *error* comes from, also where a handler has made another error of it."""
    left, seen = [error], set[int]()
    while left:
        error = left.pop()
        if isinstance(error, UnreadableRowError):
            return error
        if id(error) not in seen:
            seen.add(id(error))
            before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            left += [before] if before is not None else []
            left += error.exceptions if isinstance(error, BaseExceptionGroup) else []
    return None


def _halted(row: UnreadableRowError, unit: Unit, past: Past | None) -> Rest:
    """The partition halts before *unit*'s event: the next ones may need the row, too, and no event is to blame."""
    past = past or Past()
    past.unit, past.done = None, frozenset()  # all handlers run anew when the row is mended
    return Rest(past, never, halts=f"{words(unit.record)} is not handled, and nothing after it: {row}")


def _bury(failing: Failing, error: Exception, unit: Unit, past: Past | None) -> None:
    """Put the dead letter into the group. Raises Rest when it must not leave."""
    if isinstance(error, GivenUp):
        failure = error.failure
    elif not unit.handler and isinstance(error, (DecodeError, UnknownTypeError)):
        failure = failing.undecodable(error, past)
    else:
        failure = failing.broken(error, unit.handler, past)
    failing.bury(failure, unit, past)
    if past is not None:
        failing.ended(unit.record, past, unit.partition, is_dead=True)
        if past.back is not None and past.back.handler and unit.mark is not None:
            key, mark = unit.mark  # of this coming back, not of the event: a redrive leaves another one
            unit.partition.group_for(MARK_BYTES).marks[key] = mark
