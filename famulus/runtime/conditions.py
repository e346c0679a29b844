"""Conditions of cluster and machine that a worker needs, checked repeatedly while it runs.

The start of a worker checks most of them, but a topic may be deleted later, or a clock be set. A
check returns the conditions that fail now. `/readyz`, the log and the metrics report them. A
condition that needs an operator ends the worker, since neither a restart nor another worker would
help.

The checks are started by a timer of the event loop, as those of the watchdog are.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from famulus.errors import ConfigError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that the worker needs and that fails.

    *name* is for tools, *why* has cause and cure. *is_red* means that some processing has stopped,
    so the worker is not ready. The worker ends when the condition lasts for *ends_after_s* seconds.
    """

    name: str
    subject: str
    why: str
    is_red: bool = True
    ends_after_s: float = math.inf


Look = Callable[[], Awaitable[Iterable[Condition] | None]]  # None: unknown now, as before


class Conditions:
    """Conditions that fail, and for how long. Pure: time is an argument."""

    def __init__(self) -> None:
        self._lasting: dict[tuple[str, str], tuple[Condition, float]] = {}

    def look(self, passed_s: float, found: Iterable[Condition]) -> None:
        """Note the conditions *found*, *passed_s* seconds after the last check; log the changes."""
        before, self._lasting = self._lasting, {}
        for condition in found:
            key = condition.name, condition.subject
            _, for_s = before.pop(key, (None, None))
            if for_s is None:
                say = log.error if condition.is_red else log.warning
                say(condition.why, condition=condition.name, of=condition.subject)
            self._lasting[key] = condition, 0.0 if for_s is None else for_s + passed_s
        for condition, for_s in before.values():
            log.warning(
                "this is over", condition=condition.name, of=condition.subject, seconds=round(for_s)
            )

    @property
    def all(self) -> list[Condition]:
        """Return the conditions that fail now."""
        return [condition for condition, _ in self._lasting.values()]

    @property
    def hopeless(self) -> list[Condition]:
        """Return the conditions that have lasted for so long that the worker has to end."""
        return [
            condition
            for condition, for_s in self._lasting.values()
            if for_s >= condition.ends_after_s
        ]


class Watch:
    """Runs the checks *looks* every *every_s* seconds; *on_fault* ends the worker."""

    def __init__(
        self,
        looks: Sequence[Look],
        every_s: float,
        on_fault: Callable[[Exception], Awaitable[object]],
    ) -> None:
        self._looks, self._every_s, self._on_fault = looks, every_s, on_fault
        self._found: list[Iterable[Condition]] = [() for _ in looks]
        self._conditions = Conditions()
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._is_stopped = True

    @property
    def red(self) -> list[str]:
        """Return the texts of the conditions by which the worker is not ready."""
        return [condition.why for condition in self._conditions.all if condition.is_red]

    @property
    def warnings(self) -> list[str]:
        """Return the texts of the other failing conditions."""
        return [condition.why for condition in self._conditions.all if not condition.is_red]

    @property
    def counts(self) -> Counter[str]:
        """Return the number of failing conditions by name."""
        return Counter(condition.name for condition in self._conditions.all)

    def start(self) -> None:
        """Start the periodic checks; the first one follows after an interval."""
        self._last_s, self._is_stopped = time.monotonic(), False
        self._look_later()

    def stop(self) -> None:
        """Stop the periodic checks, also one that is running."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def look_soon(self) -> None:
        """Run the checks now, unless they are running: they may explain what has happened."""
        if (
            self._timer is not None
            and not self._is_stopped
            and (self._looking is None or self._looking.done())
        ):
            self._timer.cancel()
            self._begin()

    def _look_later(self) -> None:
        if not self._is_stopped:
            self._timer = asyncio.get_running_loop().call_later(self._every_s, self._begin)

    def _begin(self) -> None:
        self._looking = asyncio.ensure_future(self._look())
        self._looking.add_done_callback(lambda _: self._look_later())

    async def _look(self) -> None:
        try:
            for number, look in enumerate(self._looks):
                found = await look()
                if found is not None:
                    self._found[number] = list(found)
        except asyncio.CancelledError:
            return  # by `stop`; or with all other tasks, then the timer starts the next check
        except Exception as error:  # a check must not fail unnoticed
            await self._on_fault(error)
            return
        now_s = time.monotonic()
        # While the process was frozen nothing was checked: count two intervals at most.
        passed_s, self._last_s = min(now_s - self._last_s, 2 * self._every_s), now_s
        self._conditions.look(passed_s, [condition for found in self._found for condition in found])
        if hopeless := self._conditions.hopeless:
            await self._on_fault(ConfigError("; ".join(condition.why for condition in hopeless)))
