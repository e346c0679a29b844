"""One telemetry event for each message that was consumed: for callbacks of users, and as a line of the log.

`KafkaMessageConsumed` says where the message stood, its type, what became of it and how long that
took; never its key or its value. Nobody is told unless somebody asked, see `engine.told`.
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
EVERY_S = 30.0  # one line for each callback that fails in so long
log = structlog.get_logger()
lines = logging.getLogger("app.consumed")


@dataclass(frozen=True, slots=True)
class Consumed:
    """A message that was consumed: *topic*, *partition*, *offset*, and its type's name on the wire, empty without one.

    *outcome* is `handled`, `duplicate` (it had been handled before), `dead_lettered`, `ignored`
    (nobody here handles its type), or `postponed`: it waits in a retry topic, and there is another
    one of these when it comes back. *processing_s* is how long it was in hand, in seconds: of all
    its attempts, without the waits between them.
    """

    topic: str
    partition: int
    offset: int
    event_type: str
    outcome: Outcome | Literal["postponed"]
    processing_s: float


Callback = Callable[[Consumed], object]


class Consumers:
    """Who is told of each message.

    *failures* counts the callbacks that raised, by name. *clock* gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures: Counter[str] = Counter()
        self._callbacks: dict[str, Callback] = {}
        self._clock = clock
        self._said_s: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def add(self, callback: Callback) -> None:
        """Have *callback* told of each message.

        A module that is loaded again takes the place of its own.

        Raises ConfigError for what is no plain function of one argument.
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
        except ValueError:  # one written in C does not say
            pass
        self._callbacks[_name_of(given)] = given
        self.failures.setdefault(_name_of(given), 0)

    @property
    def is_any(self) -> bool:
        """Whether there is a callback."""
        return bool(self._callbacks)

    def tell(self, consumed: Consumed) -> None:
        """Call each.

        Whatever one raises is counted and said now and then, and is nothing of the event's.
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
    """Write the line of the log.

    Its fields are attributes of the record as well, for whoever exports records.
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
        result.close()  # else Python warns of it some time later
    if inspect.isawaitable(result) or inspect.isgenerator(result):
        raise TypeError("it returned work that nobody does")


def _name_of(callback: Any) -> str:
    of = callback if hasattr(callback, "__qualname__") else type(callback)
    return f"{of.__module__}.{of.__qualname__}"
