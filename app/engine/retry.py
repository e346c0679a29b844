"""What to do after a failed attempt: again after a wait, or give up. Pure; the pipeline does what is decided here."""

from dataclasses import dataclass

from app.errors import PermanentError


@dataclass(frozen=True, slots=True)
class Again:
    """Try once more after *delay_s* seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It will not work. *reason* is `permanent` or `exhausted`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how long to wait: 2, 4, 8 ... seconds unless set. *attempts* counts the first one."""

    attempts: int = 3
    wait_initial_s: float = 2.0
    wait_factor: float = 2.0
    wait_max_s: float = 60.0

    def decide(self, error: Exception, attempt: int) -> Again | GiveUp:
        """What to do after *attempt* (counted from 1) ended with *error*.

        A PermanentError is given up at once; anything else is taken as transient, a bounded number of times.
        """
        if isinstance(error, PermanentError):
            return GiveUp("permanent")
        if attempt >= self.attempts:
            return GiveUp("exhausted")
        return Again(min(self.wait_initial_s * self.wait_factor ** (attempt - 1), self.wait_max_s))
