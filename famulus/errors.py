"""Errors of the engine: each names cause and cure in one line, and has an exit code.

There are two families. *Operating errors* are for operators: the command line shows them as one
line and exits with a code of sysexits(3), which supervisors understand. *Handler errors* are raised
by handlers to classify a failure: try again, or never.
"""

import click

from famulus.formatting import printable


class OperatingError(click.ClickException):
    """Something outside the code is wrong.

    The command line shows it as one line and exits with `exit_code`.
    """

    exit_code = 1

    def format_message(self) -> str:
        """Return the line without characters that a terminal would obey."""
        return printable(self.message)


class ConfigError(OperatingError):
    """A setting is missing or wrong (EX_CONFIG)."""

    exit_code = 78


class UnavailableError(OperatingError):
    """Something that we need cannot be reached (EX_UNAVAILABLE)."""

    exit_code = 69


class DataError(OperatingError):
    """Input is wrong (EX_DATAERR)."""

    exit_code = 65


class StreamError(OperatingError):
    """Standard input cannot be read, or standard output not be written (EX_IOERR)."""

    exit_code = 74


class AccessError(OperatingError):
    """Access is denied: a login or certificate is refused, or a right is missing (EX_NOPERM)."""

    exit_code = 77


class BadRequestError(ValueError):
    """A web request is wrong: the answer is 400 with this text."""


class UnreadableError(OperatingError):
    """Records of a partition cannot be read: they are damaged, or too large to be unpacked.

    The next records of *topic* begin at *next_offset*, None if that is unknown. With *is_stray* a
    stranger wrote them into a topic of the group's own.
    """

    def __init__(
        self,
        message: str,
        topic: str = "",
        first_offset: int = -1,
        next_offset: int | None = None,
        *,
        is_stray: bool = False,
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.first_offset = first_offset
        self.next_offset = next_offset
        self.is_stray = is_stray


class UnreadableRowError(OperatingError):
    """A row of a table cannot be read: older code wrote it, or it is damaged.

    No event is to blame for that.
    """


class UnsentError(OperatingError):
    """Kafka does not take what has to be sent. Nothing is lost: it is tried again."""


class InvariantError(OperatingError):
    """Continuing would break a promise of the engine, so the process ends (EX_SOFTWARE)."""

    exit_code = 70


class HandlerError(Exception):
    """A handler's classification of a failure."""


class TransientError(HandlerError):
    """Raised by a handler: it did not work now, it may work later.

    The event is tried again, then dead-lettered.
    """


class PermanentError(HandlerError):
    """Raised by a handler: the event will never work and becomes a dead letter at once."""


class Reject(PermanentError):  # noqa: N818  # a word of the handler's, no fault
    """Raised by a handler: the event is not wanted.

    The event becomes a dead letter at once, with the reason.
    """


class HandlerTimeoutError(TransientError):
    """An attempt took longer than it may (`Failures.HandlerTimeoutS`)."""


class HandlerHeldError(TransientError):
    """An attempt blocked the event loop until the worker lost its membership in the group.

    The handler waited without `await`, or kept the interpreter, so that nothing else of the worker
    ran. Each time counts as an attempt.
    """


class HandlerCancelledError(HandlerError):
    """An attempt ended with a cancellation from neither the time limit nor the worker's stop.

    Something that the handler waited for was cancelled, or the handler cancelled its own task.
    Another attempt may succeed, so the event is tried again. No circuit breaker counts it, since
    the resources of the handler may be fine.
    """


class AttemptEndedError(RuntimeError):
    """A task did something for an attempt that has failed, whose effects are discarded.

    Raised to a task that outlives its handler. The event is tried again or becomes a dead letter,
    so the effect would happen twice, or for an event that failed.
    """


class DecodeError(PermanentError):
    """The bytes of a record are not the event that they should be.

    *path* is the JSON path of the first fault (`$.items[0].price`), *reason* says what is wrong
    there in names and types only: error texts are logged and written into headers, payloads are
    private.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ClaimError(DecodeError):
    """A claim check (`serialization.claim_check`) cannot be redeemed, now or ever."""

    def __init__(self, reason: str) -> None:
        super().__init__("claim", reason)


class ClaimTooLargeError(PermanentError):
    """An event is larger than `ClaimCheck.MaxBytes`."""


class ClaimStoreError(TransientError):
    """The store of large payloads is unavailable; events that need it wait for it."""
