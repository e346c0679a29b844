"""What can go wrong, in one line each: an error names its cause and its cure, and knows its exit code.

Two families. *Operating errors* are for the person who runs the worker: the command line shows them
as one line and exits with the code of sysexits(3) that supervisors understand. *Handler errors* are
the words a handler may say about an event: try again, or never.
"""

import click

from famulus.formatting import printable


class OperatingError(click.ClickException):
    """Something outside the code is wrong.

    The command line shows it as one line and exits with `exit_code`.
    """

    exit_code = 1

    def format_message(self) -> str:
        """The line, in which nothing is left that a terminal would obey: names in it may be a stranger's."""
        return printable(self.message)


class ConfigError(OperatingError):
    """A setting is missing or wrong (EX_CONFIG)."""

    exit_code = 78


class UnavailableError(OperatingError):
    """Something that we need cannot be reached (EX_UNAVAILABLE)."""

    exit_code = 69


class DataError(OperatingError):
    """What somebody gave us as input is wrong (EX_DATAERR)."""

    exit_code = 65


class StreamError(OperatingError):
    """Standard input cannot be read, or standard output not be written (EX_IOERR)."""

    exit_code = 74


class AccessError(OperatingError):
    """We are not let in, a password, a token or a certificate is not accepted; or we may not do this (EX_NOPERM)."""

    exit_code = 77


class BadRequestError(ValueError):
    """What somebody sent over the web is not what the view takes: the answer is 400, in these words."""


class UnreadableError(OperatingError):
    """Records of a partition cannot be read: what is there is damaged, or would take more memory than it may.

    Those of *topic* behind them begin at *next_offset*, None when nobody can tell. *is_stray*: in a
    topic of the group's own nobody of us wrote them.
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
    """Going on would break a promise of ours, so the process ends instead (EX_SOFTWARE)."""

    exit_code = 70


class HandlerError(Exception):
    """What a handler says about an event that it could not handle."""


class TransientError(HandlerError):
    """Raised by a handler: it did not work now, it may work later.

    The event is tried again, then dead-lettered.
    """


class PermanentError(HandlerError):
    """Raised by a handler: it will never work. The event goes to the dead letter topic at once."""


class Reject(PermanentError):  # noqa: N818  # a word of the handler's, no fault
    """Raised by a handler: the event is not wanted.

    It goes to the dead letter topic at once, with the reason.
    """


class HandlerTimeoutError(TransientError):
    """An attempt took longer than it may (`Failures.HandlerTimeoutS`)."""


class HandlerHeldError(TransientError):
    """An attempt held the event loop for so long that the worker lost its place in the group.

    It waited for something without `await`, or kept the interpreter: nothing else of the worker
    went on. Each time counts as an attempt.
    """


class HandlerCancelledError(HandlerError):
    """An attempt ended with a cancellation that neither the time limit nor the worker's stop asked for.

    Something that the handler waited for was cancelled, or the handler cancelled its own task.
    Another attempt may succeed, so the event is tried again. It says nothing of what the handler
    needs, so no breaker counts it.
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
    """A record stands for a payload in the store (`wire.claimcheck`), and cannot be redeemed: now, or ever."""

    def __init__(self, reason: str) -> None:
        super().__init__("claim", reason)


class ClaimTooLargeError(PermanentError):
    """An event is larger than `ClaimCheck.MaxBytes`."""


class ClaimStoreError(TransientError):
    """The store of large payloads is away. Whoever needs it waits for it."""
