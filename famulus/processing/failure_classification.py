"""What an error makes of an event in hand: a time-out taken back, a beginning anew, a rest, or a dead letter.

The questions that come before the policy of `failing`: whether it is an error of the event at all.
"""

import asyncio
from collections.abc import Sequence

from famulus.errors import (
    DecodeError,
    HandlerCancelledError,
    HandlerTimeoutError,
    InvariantError,
    OperatingError,
    UnreadableRowError,
)
from famulus.processing.deferral import Defer, RetryContext, after_delay, after_unit, never
from famulus.processing.failure_policy import (
    EventFailedError,
    FailurePolicy,
    UnknownTypeError,
    words,
)
from famulus.processing.handlers import Handler
from famulus.state.changelog import MARK_BYTES
from famulus.state.unit_of_work import RowConflictError, UnitOfWork

STORE_RETRY_S = 1.0  # between two tries to read a store whose disk does not let us


def failed(  # noqa: PLR0917  # what is known of the attempt
    failure_policy: FailurePolicy,
    handler: Handler,
    handlers: Sequence[Handler],
    error: BaseException,
    unit: UnitOfWork,
    past: RetryContext | None,
) -> RetryContext:
    """Say what becomes of an event of which an attempt has failed, see `Failing.failed`.

    Anything that a handler raises is a failure of that attempt, but for two: the cancellation by
    which the worker stops, and what undoes the event (whatever its handler made of that).
    """
    if _is_stop(error, unit):
        raise error
    is_timed_out = unit.is_timed_out
    if is_timed_out:
        take_back(unit)
    if unit.is_undone:
        raise RowConflictError
    if isinstance(error, asyncio.CancelledError):
        error = _said(error, handler, is_timed_out=is_timed_out)
    if isinstance(error, InvariantError):  # damaged state, most of all: no failure of the event
        raise error
    if (row := _unreadable_row(error)) is not None:
        raise _halted(row, unit, past)
    return failure_policy.failed(handler, handlers, error, unit, past)


def not_handled(
    failure_policy: FailurePolicy, error: BaseException, unit: UnitOfWork, past: RetryContext | None
) -> None:
    """Make a dead letter of the event, or raise what is to happen instead: Rest, or what is no failure of it."""
    if isinstance(error, Defer):
        if error.past.unit is unit:
            unit.is_resting = True
            unit.suspend()  # what it has touched is its own
        raise error
    if _is_stop(error, unit):
        raise error
    if unit.is_undone:
        raise _again(unit, past) from None
    if isinstance(error, OperatingError):
        raise error
    _bury(failure_policy, error, unit, past)
    unit.is_discarded = True


def _is_stop(error: BaseException, unit: UnitOfWork) -> bool:
    """Whether *error* is the cancellation by which the worker stops."""
    return unit.is_stopped and isinstance(error, asyncio.CancelledError)


def take_back(unit: UnitOfWork) -> None:
    """The attempt that was cancelled because of its limit has ended, whatever its handler made of that."""
    unit.is_timed_out = False
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


async def close_services(unit: UnitOfWork, error: BaseException | None = None) -> None:
    """Close the services of an event's attempt; those that ask for it get its *error*.

    Errors that they raise are logged and change nothing. When the attempt's time limit passes
    meanwhile, the rest stays open.
    """
    services, unit.services = unit.services, None
    if services is None:
        return
    try:
        await services.aclose(
            *((type(error), error, error.__traceback__) if error is not None else ())
        )
    except asyncio.CancelledError:
        if not unit.is_timed_out or unit.is_stopped:
            raise
        take_back(unit)


def forget_cancellations() -> bool:
    """Take back every request to cancel the current task.

    Returns whether there was any, which may be on its way.
    """
    task = asyncio.current_task()
    assert task is not None
    had_any = task.cancelling() > 0
    while task.uncancel():
        pass
    return had_any


def _said(error: asyncio.CancelledError, handler: Handler, *, is_timed_out: bool) -> Exception:
    """Say in an error of ours why an attempt was cancelled; it points at the same place."""
    if is_timed_out:
        return HandlerTimeoutError(f"not done after {handler.policy.timeout_s:g} s").with_traceback(
            error.__traceback__
        )
    what = "cancelled by itself, or by something that it waited for"
    return HandlerCancelledError(what).with_traceback(error.__traceback__)


def _again(unit: UnitOfWork, past: RetryContext | None) -> Defer:
    """The event begins anew after another event to which a row belongs, or when the disk is back: `state.unit`."""
    if unit.is_timed_out:
        take_back(unit)
    unit.discard()
    unit.is_live = False
    past = past or RetryContext()
    past.unit, past.done = None, frozenset()
    if unit.in_the_way is None:
        return Defer(past, after_delay(STORE_RETRY_S))
    past.turn = unit.turn()
    return Defer(past, after_delay(0) if past.turn is None else after_unit(past.turn))


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


def _halted(row: UnreadableRowError, unit: UnitOfWork, past: RetryContext | None) -> Defer:
    """The partition halts before *unit*'s event: the next ones may need the row, too, and no event is to blame."""
    past = past or RetryContext()
    past.unit, past.done = None, frozenset()  # all handlers run anew when the row is mended
    return Defer(
        past, never, halts=f"{words(unit.record)} is not handled, and nothing after it: {row}"
    )


def _bury(
    failure_policy: FailurePolicy, error: BaseException, unit: UnitOfWork, past: RetryContext | None
) -> None:
    """Put the dead letter into the group. Raises Rest when it must not leave."""
    if isinstance(error, EventFailedError):
        failure = error.failure
    elif not unit.handler and isinstance(error, (DecodeError, UnknownTypeError)):
        failure = failure_policy.undecodable(error, past)
    else:
        failure = failure_policy.broken(error, unit.handler, past)
    failure_policy.dead_letter(failure, unit, past)
    if past is not None:
        failure_policy.ended(unit.record, past, unit.partition, is_dead=True)
        if past.back is not None and past.back.handler and unit.mark is not None:
            # Of this coming back, not of the event: a redrive leaves another one.
            key, mark = unit.mark
            unit.partition.group_for(MARK_BYTES).marks[key] = mark
