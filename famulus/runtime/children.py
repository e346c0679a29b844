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
KILLED = 75  # exit code of a worker that left events in flight, which are read again
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
    """Child processes and their guard; an async context manager that kills the rest at its end.

    *patience_s* is the time that children get to end by themselves when this process was killed.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._guard: Process | None = None
        self._running: set[Child] = set()

    async def __aenter__(self) -> Self:
        # The guard may outlive the terminal, so its output is discarded.
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
        # Children without events in flight, or all of them after an error of this process.
        left = {child.ended: child for child in self._running}
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
    """The output of a child, both of its streams, through a pipe of this process.

    With a pipe of asyncio, the end of a child would not be seen before its output was read.
    """

    reader: asyncio.StreamReader
    writing: int  # the descriptor of the child's end
    _transport: asyncio.BaseTransport

    @classmethod
    async def open(cls) -> Self:
        """Open the pipe. Raises OSError when there are too many open files."""
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", 0)
        )
        return cls(reader, writing, transport)

    def close(self) -> None:
        """Stop reading."""
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
        """Return the process id."""
        return self._process.pid

    @property
    def output(self) -> Output:
        """Return the output of the child. Raises AssertionError unless it is piped."""
        assert self._output is not None
        return self._output

    def tell(self, line: str) -> None:
        """Write *line* to the standard input of the child, and close it.

        Raises AssertionError if it has none.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.close()

    @property
    def age_s(self) -> float:
        """Return the seconds since it was started."""
        return time.monotonic() - self._began

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child, unless it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def stop(self, limit_s: float, at_once: asyncio.Event) -> int:
        """End the child by SIGTERM, later by SIGKILL; return the exit code to report.

        SIGKILL follows after *limit_s* seconds, or when *at_once* is set. For a killed child the
        exit code is 75, as it may have left events in flight. For a child that SIGTERM ended before
        it had a handler for it, the exit code is 0.
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
        if code == -signal.SIGTERM:  # it had no handler yet
            return 0
        return code if code >= 0 else KILLED


def how_ended(code: int) -> str:
    """Describe the end of a process with the exit code *code*, below 0 a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


async def is_set_within(event: asyncio.Event, limit_s: float) -> bool:
    """Return True if *event* is set within *limit_s* seconds."""
    try:
        await asyncio.wait_for(event.wait(), limit_s)
    except TimeoutError:
        return False
    return True
