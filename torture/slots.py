"""The places of the workers: who runs there, with which state folder, and the blow that it was started with."""

import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from famulus.dev.worker import WorkerProcess

# What becomes of the state folder before a worker is started again.
State = Literal["kept", "deleted", "moved"]


@dataclass(frozen=True, slots=True)
class Blow:
    """A signal that a worker sends when it reaches *step* for the *after*-th time; to itself when *pid* is 0."""

    step: str
    after: int = 1
    number: signal.Signals = signal.SIGKILL
    pid: int = 0

    def settings(self) -> dict[str, str]:
        """The environment of the worker that deals it."""
        return {
            "TORTURE_STEP": self.step,
            "TORTURE_AFTER": str(self.after),
            "TORTURE_SIGNAL": str(int(self.number)),
            "TORTURE_PID": str(self.pid),
        }


@dataclass
class Slot:
    """The place of one worker.

    *home* is its state folder, *port* that of its web views, *blow* is what it deals.

    The port stays: Faust puts it into the membership, and refuses a static one that comes with
    another port.
    """

    home: Path
    port: int
    process: WorkerProcess | None = None
    blow: Blow | None = None
    # It ended, or will, and is not to be started again before somebody says so.
    is_down: bool = False

    @property
    def running(self) -> WorkerProcess:
        """The process. Raises AssertionError before the first start."""
        assert self.process is not None
        return self.process

    @property
    def has_ended(self) -> bool:
        """Whether nothing runs there any more."""
        return self.running.exit_code() is not None

    @property
    def fell_by_blow(self) -> bool:
        """Whether it has dealt itself a deadly blow."""
        return (
            self.blow is not None
            and self.blow.pid == 0
            and self.running.exit_code() == -self.blow.number
        )

    @property
    def last_words(self) -> str:
        """Why it ended, as far as its log tells: the first crash, else what it said last."""
        lines = self.running.log.read_text("utf-8", "replace").splitlines()
        return (
            next((line for line in lines if "Crashed reason=" in line), "")
            or self.running.last_words()
        )

    @property
    def is_frozen(self) -> bool:
        """Whether it is stopped, by SIGSTOP."""
        return is_frozen(self.running.pid)


def is_frozen(pid: int) -> bool:
    """Whether a process is stopped, by SIGSTOP."""
    with suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False


@dataclass
class Marks:
    """What was done: faults by their kind, kills, starts after the first ones, steps hit; and what came of it.

    *ended* has the workers that ended by themselves by their exit codes, *words* what they said.
    *stood_still* has each time that a partition had work, nothing was done, and its worker was
    green. *unexpected* is all else that was not to be, in words.
    """

    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    restarts: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)
    stood_still: set[str] = field(default_factory=set)
    unexpected: list[str] = field(default_factory=list)
