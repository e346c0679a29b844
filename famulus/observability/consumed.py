"""Telemetry event for each consumed message, for callbacks of users and as a log line.

`KafkaMessageConsumed` has the position of the message, its type, its outcome and the processing
time, never its key or value. These events are created only if a callback or the log line is
configured, see `processing.telemetry_pipeline`.
"""

import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from famulus.declarations import Declaration, shown
from famulus.observability.logs import as_line, described
from famulus.serialization.records import Outcome

EVENT = "KafkaMessageConsumed"
EVERY_S = 30.0  # a failing callback is logged once in this time
log = structlog.get_logger()
lines = logging.getLogger("app.consumed")


@dataclass(frozen=True, slots=True)
class Consumed:
    """A message that was consumed.

    *event_type* is the name on the wire, empty if the message has none. *outcome* is `handled`,
    `duplicate` (handled before), `dead_lettered`, `ignored` (its type has no handler here), or
    `postponed` (sent to a retry topic; its redelivery has a telemetry event of its own).
    *processing_s* is the processing time in seconds, summed over all attempts, without the waits
    between them.
    """

    topic: str
    partition: int
    offset: int
    event_type: str
    outcome: Outcome | Literal["postponed"]
    processing_s: float


Callback = Callable[[Consumed], object]


class Consumers:
    """Callbacks that are called with each consumed message.

    *failures* counts the calls that raised, by the name of the callback. *clock* returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures: Counter[str] = Counter()
        self._callbacks: dict[str, Callback] = {}
        self._clock = clock
        self._said_s: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def add(self, callback: Callback) -> None:
        """Register *callback* to be called with each message.

        A callback of the same name is replaced, since its module may have been reloaded. Raises
        ConfigError when *callback* is not a plain function of one argument.
        """
        declared = Declaration("app.on_consumed(...)")
        given: Any = callback
        if not callable(given) or any(_is_work(of) for of in (given, type(given).__call__)):
            raise declared.error(
                "the callback must be a plain function, without async and yield, not "
                f"{shown(given)}: what takes long "
                "belongs into a queue of yours, or into a handler"
            )
        try:
            inspect.signature(given).bind(None)
        except TypeError:
            raise declared.error(
                "the callback is called with one argument, an app.Consumed"
            ) from None
        except ValueError:  # a function written in C may have no signature
            pass
        self._callbacks[_name_of(given)] = given
        self.failures.setdefault(_name_of(given), 0)

    @property
    def is_any(self) -> bool:
        """Return whether there is a callback."""
        return bool(self._callbacks)

    def tell(self, consumed: Consumed) -> None:
        """Call each callback with *consumed*.

        An error of a callback is counted, logged at a limited rate, and does not affect the event.
        """
        for name, callback in self._callbacks.items():
            try:
                if (result := callback(consumed)) is not None:
                    _refuse_work(result)
            except BaseException as error:  # SystemExit and a cancellation, too
                self._failed(name, error)

    def _failed(self, name: str, error: BaseException) -> None:
        self.failures[name] += 1
        now_s, said_s = self._clock(), self._said_s.get(name)
        if said_s is not None and now_s - said_s < EVERY_S:
            self._unsaid[name] += 1
            return
        self._said_s[name] = now_s
        log.error(
            "a callback of app.on_consumed failed; its event is not affected",
            callback=name,
            error=described(error),
            others_before=self._unsaid.pop(name, 0),
        )


def note_consumed(consumed: Consumed) -> None:
    """Write the log line of *consumed*.

    Its fields are also attributes of the log record, for exporters of log records.
    """
    if not lines.isEnabledFor(logging.INFO):
        return
    fields = {
        "topic": consumed.topic,
        "partition": consumed.partition,
        "offset": consumed.offset,
        "type": consumed.event_type,
        "outcome": consumed.outcome,
        "processing_ms": round(consumed.processing_s * 1000, 3),
    }
    lines.info(
        as_line(None, "info", {"event": EVENT, **fields}),
        extra={f"famulus.{k}": v for k, v in fields.items()},
    )


def _is_work(call: Any) -> bool:
    return (
        inspect.iscoroutinefunction(call)
        or inspect.isasyncgenfunction(call)
        or inspect.isgeneratorfunction(call)
    )


def _refuse_work(result: object) -> None:
    if inspect.iscoroutine(result):
        result.close()  # else Python would warn that it was never awaited
    if inspect.isawaitable(result) or inspect.isgenerator(result):
        raise TypeError("it returned work that nobody does")


def _name_of(callback: Any) -> str:
    of = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{of.__module__}.{of.__qualname__}"
