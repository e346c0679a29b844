"""Child processes: started and ended by this one, and none of them outlives it.

A child has a session of its own, so that Ctrl-C and the end of a terminal reach only the parent,
which then decides the order of the end. However the parent ends, `process_guard` ends its children.
"""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from famulus import process_guard

REAP_S = 5.0  # after SIGKILL a process is gone by then, unless the system itself hangs
KILLED = 75  # as a worker that was ended before its work in hand was done: that is read again
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class StopSignals:
    """Stop signals: Ctrl-C, SIGTERM, the end of the terminal; a context manager on a running loop.

    *asked* is set by the first one, *insisted* by the second. SIGHUP counts unless it is ignored,
    as `nohup` does.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _note(self) -> None:
        (self.insisted if self.asked.is_set() else self.asked).set()


class Children:
    """Starts and guards children; an async context manager whose end ends those that still run.

    *patience_s* is the time that children get to end by themselves when this process was killed.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._guard: Process | None = None
        self._running: set[Child] = set()

    async def __aenter__(self) -> Self:
        # Its errors are for nobody: it may outlive the terminal.
        command = [sys.executable, "-IS", process_guard.__file__]
        self._guard = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        self._tell(f"={self._patience_s:g}")
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left = {
            child.ended: child for child in self._running
        }  # what has nothing in hand, or after an error of ours
        for child in left.values():
            child.signal(signal.SIGKILL)
        if left:
            await asyncio.wait(left, timeout=REAP_S)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    self._guard.wait(), self._patience_s + 2 * process_guard.PATIENCE_S
                )

    async def start(
        self,
        command: Sequence[str],
        variables: Mapping[str, str],
        *,
        is_piped: bool = False,
        is_told: bool = False,
    ) -> "Child":
        """Start a child with *variables* as its environment. Raises OSError.

        When *is_piped*, its output comes through `Child.output`; else it goes to this process's.
        When *is_told*, it waits for `Child.tell` on its standard input; else it has none.
        """
        output = await Output.open() if is_piped else None
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(variables),
                start_new_session=True,
                stdin=PIPE if is_told else DEVNULL,
                stdout=output.writing if output else None,
                stderr=STDOUT if output else None,
            )
        except OSError:
            if output is not None:
                output.close()
            raise
        finally:
            if output is not None:
                os.close(output.writing)
        self._tell(f"+{process.pid}")
        child = Child(process, output)
        self._running.add(child)
        child.ended.add_done_callback(lambda _: self._forget(child))
        return child

    def _forget(self, child: "Child") -> None:
        self._running.discard(child)
        self._tell(f"-{child.pid}")

    def _tell(self, line: str) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        if not self._guard.stdin.is_closing():
            self._guard.stdin.write(f"{line}\n".encode())


@dataclass(frozen=True)
class Output:
    """Output of a child, of both its streams; asyncio's pipe would hide the end while unread."""

    reader: asyncio.StreamReader
    writing: int  # the descriptor, for the child alone
    _transport: asyncio.BaseTransport

    @classmethod
    async def open(cls) -> Self:
        """Make it. Raises OSError when there are too many open files."""
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        return cls(reader, writing, transport)

    def close(self) -> None:
        """Read no more."""
        self._transport.close()


class Child:
    """A started process; *ended* has its exit code, below 0 the signal that killed it."""

    def __init__(self, process: Process, output: Output | None) -> None:
        self._process = process
        self._output = output
        self._began = time.monotonic()
        self.ended: asyncio.Task[int] = asyncio.create_task(process.wait())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def output(self) -> Output:
        """The output of the child. Raises AssertionError unless it is piped."""
        assert self._output is not None
        return self._output

    def tell(self, line: str) -> None:
        """Write the only line to its standard input. Raises AssertionError if it has none."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.close()

    @property
    def age_s(self) -> float:
        """Return the seconds since it was started."""
        return time.monotonic() - self._began

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, limit_s: float, at_once: asyncio.Event) -> int:
        """End it by SIGTERM, later by SIGKILL; return the exit code that the parent should have.

        SIGKILL follows after *limit_s* seconds, or when *at_once* is set. A killed child counts as
        one that left events unfinished (75); one that had not begun yet, as one that ended well.
        """
        self.signal(signal.SIGTERM)
        insisted = asyncio.create_task(at_once.wait())
        await asyncio.wait(
            {self.ended, insisted}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        insisted.cancel()
        if not self.ended.done():
            self.signal(signal.SIGKILL)
            await asyncio.wait({self.ended}, timeout=REAP_S)
        code = self.ended.result() if self.ended.done() else -signal.SIGKILL
        if code == -signal.SIGTERM:  # it had not yet learned to listen
            return 0
        return code if code >= 0 else KILLED


def how_ended(code: int) -> str:
    """Say in words how a process ended that has this exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


async def is_set_within(event: asyncio.Event, limit_s: float) -> bool:
    """Wait for *event* up to *limit_s*, and say whether it came."""
    try:
        await asyncio.wait_for(event.wait(), limit_s)
    except TimeoutError:
        return False
    return True
