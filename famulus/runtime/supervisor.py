"""Several workers of this machine under one parent: one log, one stop, restarts.

The exit code of a worker decides. A worker that was killed, has crashed, broke an invariant (70) or
found no broker (69) is started again. An error that a restart cannot mend ends all workers: a wrong
setting (78), a missing right (77), wrong use (2, 64). A worker that was asked to stop (0, 75) stays
down.
"""

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from famulus.runtime.children import KILLED, Child, Children, StopSignals, how_ended, is_set_within
from famulus.runtime.one_log import OneLog

FOR_GOOD = {2, 64, 77, 78}  # no restart helps; codes of sysexits(3), and 2 of click
ASKED = {0, KILLED}  # the worker was asked to stop
FIRST_WAIT_S, WAIT_MAX_S = (
    1.0,
    30.0,
)  # before a restart: the wait doubles each time, up to the second value
STEADY_S = 60.0  # after so long a worker has not failed at its start: the waits start again
STOP_ROOM_S = 5.0  # in addition to Worker.StopTimeoutS, which a worker keeps by itself
OUTPUT_S = 2.0  # limit for the last lines of a worker that has ended
MISSING = 71  # exit code if a process cannot be started (EX_OSERR)


class Fate(Enum):
    """Decision about a worker that has ended by itself."""

    DONE = "it stays down: it was asked to stop"
    AGAIN = "it starts again in {wait_s:g} s"
    ALL_END = "all workers end: starting it again would not help"


def fate_of(code: int) -> Fate:
    """Decide about a worker by its exit code, below 0 if a signal killed it."""
    if code in FOR_GOOD:
        return Fate.ALL_END
    return Fate.DONE if code in ASKED else Fate.AGAIN


def wait_before(failures: int) -> float:
    """Return the seconds to wait before the restart after so many *failures* in a row."""
    return min(FIRST_WAIT_S * 2.0 ** (min(failures, 30) - 1), WAIT_MAX_S)


def worst(codes: Iterable[int]) -> int:
    """Return the worst of the exit codes of workers.

    From worst to best: no restart helps, failed, events left in flight (75), ended well. A worker
    that a signal killed counts as 75.
    """

    def weight(code: int) -> tuple[bool, bool, bool, int]:
        return code in FOR_GOOD, code not in ASKED, code == KILLED, code

    return max((code if code >= 0 else KILLED for code in codes), key=weight, default=0)


@dataclass(frozen=True)
class Place:
    """One worker: its *name* in the log, the *command* that starts it, a text *about* it."""

    name: str
    command: Sequence[str]
    about: str


class Supervisor:
    """Keeps a worker running at each of *places* until it is asked to stop. Runs once.

    A worker has *stop_timeout_s* seconds to end, and some more before it is killed.
    """

    def __init__(
        self, places: Sequence[Place], stop: StopSignals, log: OneLog, stop_timeout_s: float
    ) -> None:
        self._places = places
        self._stop = stop
        self._log = log
        self._limit_s = stop_timeout_s + STOP_ROOM_S
        self._ending = asyncio.Event()

    async def run(self) -> int:
        """Run the workers until a stop, or until one cannot run; return the common exit code."""
        async with Children(self._limit_s) as children:
            told = asyncio.create_task(self._heed())
            try:
                async with asyncio.TaskGroup() as group:
                    kept = [
                        group.create_task(self._keep(children, place)) for place in self._places
                    ]
            finally:
                told.cancel()
        return worst(task.result() for task in kept)

    async def _heed(self) -> None:
        await self._stop.asked.wait()
        self._ending.set()
        await self._say(
            "all",
            f"workers stop, each within {self._limit_s:g} s; a second signal ends them at once",
        )

    async def _keep(self, children: Children, place: Place) -> int:
        """Keep one worker running; return its last exit code."""
        failures = 0
        while True:
            code, age_s = await self._live(children, place)
            if self._ending.is_set():
                await self._say(place.name, how_ended(code))
                return code
            failures = 1 if age_s >= STEADY_S else failures + 1
            fate, wait_s = fate_of(code), wait_before(failures)
            await self._say(place.name, f"{how_ended(code)}; {fate.value.format(wait_s=wait_s)}")
            if fate is Fate.ALL_END:
                self._ending.set()
            if fate is not Fate.AGAIN or await is_set_within(self._ending, wait_s):
                return code

    async def _live(self, children: Children, place: Place) -> tuple[int, float]:
        """Run one worker to its end; return its exit code and its age in seconds."""
        try:
            child = await children.start(
                place.command, {**os.environ, "PYTHONUNBUFFERED": "1"}, is_piped=True
            )
        except OSError as error:
            await self._say(place.name, f"no process can be started: {error.strerror or error}")
            return MISSING, 0.0
        await self._say(place.name, f"process {child.pid}, {place.about}")
        carried = asyncio.create_task(self._log.carry(place.name, child.output.reader))
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait({child.ended, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        code = await self._end_of(child)
        with suppress(TimeoutError):
            await asyncio.wait_for(carried, OUTPUT_S)
        child.output.close()
        return code, child.age_s

    async def _end_of(self, child: Child) -> int:
        if child.ended.done():
            return child.ended.result()
        return await child.stop(self._limit_s, self._stop.insisted)

    async def _say(self, name: str, line: str) -> None:
        await self._log.say(name, line)
