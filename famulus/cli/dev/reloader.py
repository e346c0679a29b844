"""Restart of one worker process whenever a file is saved, until it is stopped."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from famulus.cli.dev import spare
from famulus.cli.dev.changes import Changes
from famulus.errors import UnavailableError
from famulus.runtime.children import REAP_S, Child, Children, StopSignals, how_ended
from famulus.runtime.supervisor import STEADY_S, STOP_ROOM_S, Fate, fate_of, wait_before

NOT_MENDED_BY_A_SAVE = {69, 77}  # no broker, no right: either ends the command at the first start
READY_S = 120.0  # for which the worker is polled for its readiness
LOOK_S, ANSWER_S = 0.1, 2.0


@dataclass(frozen=True)
class Served:
    """A worker process: its *command* and *variables*, and the address of its web views."""

    command: Sequence[str]
    variables: Mapping[str, str]
    host: str
    port: int
    stop_timeout_s: float


class Reloader:
    """Runs the worker, and restarts it when files change or it has failed.

    *describe* returns how to start the worker, and is called before each start. *say* prints a
    message for the developer. *on_ready* is called when the worker has joined its group, with the
    seconds since its start or since the save.
    """

    def __init__(
        self,
        describe: Callable[[], Served],
        changes: Changes,
        stop: StopSignals,
        say: Callable[[str], None],
        on_ready: Callable[[Served, float], None],
    ) -> None:
        self._describe = describe
        self._changes = changes
        self._stop = stop
        self._say = say
        self._on_ready = on_ready
        self._asked = time.monotonic()  # when the next start was requested
        self._spare: tuple[Served, Child] | None = None

    async def run(self) -> int:
        """Run until a stop is requested, and return the exit code.

        Raises ConfigError when files cannot be watched, UnavailableError when no process can be
        started.
        """
        served, failures, is_first = self._describe(), 0, True
        async with Children(served.stop_timeout_s + STOP_ROOM_S) as children:
            while True:
                child, began = await self._start(children, served), time.monotonic()
                telling = asyncio.create_task(self._tell_ready(served))
                await self._first_of(child.ended, self._stop.asked, self._changes.saved)
                telling.cancel()
                if child.ended.done() and not self._stop.asked.is_set():
                    failures = 1 if time.monotonic() - began >= STEADY_S else failures + 1
                    if is_first and child.ended.result() in NOT_MENDED_BY_A_SAVE:
                        return child.ended.result()
                    await self._wait_for_another_start(child.ended.result(), failures)
                code = 0
                if self._changes.saved.is_set() and not self._stop.asked.is_set():
                    failures, self._asked = 0, time.monotonic()
                    self._say(f"{self._changes.take()} changed: the worker starts again")
                if not child.ended.done():
                    code = await child.stop(
                        served.stop_timeout_s + STOP_ROOM_S, self._stop.insisted
                    )
                if self._stop.asked.is_set():
                    return code
                served, is_first = self._describe(), False

    async def _start(self, children: Children, served: Served) -> Child:
        """Start the worker, and a spare process for the next start.

        The worker is the present spare process if that one still fits its description.
        """
        found, self._spare = self._spare, None
        if found is not None and (found[0] != served or found[1].ended.done()):
            await found[1].stop(REAP_S, self._stop.insisted)
            found = None
        try:
            child = found[1] if found is not None else await self._waiting(children, served)
            self._spare = served, await self._waiting(children, served)
        except OSError as error:
            raise UnavailableError(
                f"the worker cannot be started: {error.strerror or error}"
            ) from None
        child.tell("go")
        return child

    @staticmethod
    async def _waiting(children: Children, served: Served) -> Child:
        """Start a spare process, which becomes the worker when it is signalled to."""
        python, _, _, *words = served.command  # `python -m faust`
        command = [python, "-m", spare.__name__, *words]
        return await children.start(command, {**os.environ, **served.variables}, is_told=True)

    async def _wait_for_another_start(self, code: int, failures: int) -> None:
        """Wait until a worker that ended by itself may start again, or a stop is requested."""
        wait_s = wait_before(failures) if fate_of(code) is Fate.AGAIN else None
        when = (
            "when a file is saved"
            if wait_s is None
            else f"in {wait_s:g} s, or when a file is saved"
        )
        self._say(f"the worker {how_ended(code)}; it starts again {when}")
        await self._first_of(self._stop.asked, self._changes.saved, limit_s=wait_s)
        self._asked = time.monotonic()

    async def _tell_ready(self, served: Served) -> None:
        """Poll the worker until it is ready, then report it once."""
        gives_up_at = time.monotonic() + READY_S
        while time.monotonic() < gives_up_at:
            if await is_ready(served.host, served.port):
                self._on_ready(served, time.monotonic() - self._asked)
                return
            await asyncio.sleep(LOOK_S)
        self._say(f"the worker is not ready after {READY_S:g} s: its web view /readyz says why")

    @staticmethod
    async def _first_of(
        *awaited: "asyncio.Event | asyncio.Task[int]", limit_s: float | None = None
    ) -> None:
        """Wait for the first of *awaited*, *limit_s* seconds at most."""
        waits = {
            of if isinstance(of, asyncio.Task) else asyncio.create_task(of.wait()) for of in awaited
        }
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits.difference(of for of in awaited if isinstance(of, asyncio.Task)):
            wait.cancel()


async def is_ready(host: str, port: int) -> bool:
    """Return whether the worker's /readyz answers that it has joined its group."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), port)
            try:
                writer.write(
                    f"GET /readyz HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
                )
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    return False
