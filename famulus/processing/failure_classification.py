"""Classification of errors raised while an event is processed.

An error may be no failure of the event at all: the worker stops, the event is undone because of a
row conflict, or the state cannot be read. Only other errors reach the policy of `failure_policy`.
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

STORE_RETRY_S = 1.0  # between two attempts to read a store whose disk refuses


def failed(
    failure_policy: FailurePolicy,
    handler: Handler,
    handlers: Sequence[Handler],
    *,
    error: BaseException,
    unit: UnitOfWork,
    past: RetryContext | None,
) -> RetryContext:
    """Decide about an event after a failed attempt, see `FailurePolicy.failed`.

    Anything that a handler raises counts as a failure of the attempt, with these exceptions. The
    cancellation by which the worker stops and InvariantError are raised again. An event that must
    be undone raises RowConflictError, even if its handler caught or replaced the error. A row that
    cannot be read raises Defer, and halts the partition.
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
    if isinstance(error, InvariantError):  # mostly damaged state: no failure of the event
        raise error
    if (row := _unreadable_row(error)) is not None:
        raise _halted(row, unit, past)
    return failure_policy.failed(handler, handlers, error, unit, past)


def not_handled(
    failure_policy: FailurePolicy, error: BaseException, unit: UnitOfWork, past: RetryContext | None
) -> None:
    """Write a dead letter for the event, unless *error* is no failure of it.

    Raises Defer for an event that is deferred or undone. Raises *error* again when the worker
    stops, or for an OperatingError.
    """
    if isinstance(error, Defer):
        if error.past.unit is unit:
            unit.is_resting = True
            unit.suspend()  # it owns the rows that it has touched
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
    """Return whether *error* is the cancellation by which the worker stops."""
    return unit.is_stopped and isinstance(error, asyncio.CancelledError)


def take_back(unit: UnitOfWork) -> None:
    """Withdraw the cancellation by which the time limit ended an attempt.

    The attempt has ended, however its handler responded to the cancellation.
    """
    unit.is_timed_out = False
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()


async def close_services(unit: UnitOfWork, error: BaseException | None = None) -> None:
    """Close the services of an event's attempt, and pass *error* to those that take it.

    Errors that services raise while closing are logged and ignored. If the attempt's time limit
    passes meanwhile, the remaining services stay open.
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
    """Withdraw every request to cancel the current task.

    Returns whether there was any. Its CancelledError may not have been raised yet.
    """
    task = asyncio.current_task()
    assert task is not None
    had_any = task.cancelling() > 0
    while task.uncancel():
        pass
    return had_any


def _said(error: asyncio.CancelledError, handler: Handler, *, is_timed_out: bool) -> Exception:
    """Return an error that names the reason of a cancelled attempt, with its traceback."""
    if is_timed_out:
        return HandlerTimeoutError(f"not done after {handler.policy.timeout_s:g} s").with_traceback(
            error.__traceback__
        )
    what = "cancelled by itself, or by something that it waited for"
    return HandlerCancelledError(what).with_traceback(error.__traceback__)


def _again(unit: UnitOfWork, past: RetryContext | None) -> Defer:
    """Return the deferral of an event that is undone and starts from scratch.

    The event waits for the event that owns the conflicting row, or for the disk, see
    `state.unit_of_work`.
    """
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
    """Return the unreadable row that caused *error*, or None.

    The causes and contexts of *error* and the members of groups are searched, since a handler may
    have raised another error from it.
    """
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
    """Return the deferral that halts the partition before the event of *unit*.

    No event is to blame, and the next ones may need the row as well.
    """
    past = past or RetryContext()
    past.unit, past.done = None, frozenset()  # all handlers run again when the row is repaired
    return Defer(
        past, never, halts=f"{words(unit.record)} is not handled, and nothing after it: {row}"
    )


def _bury(
    failure_policy: FailurePolicy, error: BaseException, unit: UnitOfWork, past: RetryContext | None
) -> None:
    """Add the dead letter of the event to the checkpoint.

    Raises Defer when no dead letter may be written now.
    """
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
            # The mark of this redelivery, not of the event: another redrive has a mark of its own.
            key, mark = unit.mark
            unit.partition.group_for(MARK_BYTES).marks[key] = mark
