"""Logging of unhandled errors: of tasks, futures, callbacks, threads and finalizers.

By default asyncio and Python log them with the error's text and the arguments of the failed call,
which may be events. Here they are logged with type and place only. Their rate is limited, since a
handler may leave a failing task behind for every event.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import structlog

from famulus.observability.logs import described, name_of

log = structlog.get_logger()
PERIOD_S = 60.0
TOLD_MAX = 10  # errors logged per period
CALLBACK = "Exception in callback"  # asyncio's message goes on with the callback's arguments


class Leaks:
    """Log of unhandled errors, `TOLD_MAX` at most per `PERIOD_S` seconds."""

    def __init__(self) -> None:
        self._since_s, self._logged, self._untold = float("-inf"), 0, 0

    def of_loop(self, _: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
        """Log the error in *context*, as the exception handler of an event loop."""
        message = str(context.get("message") or "an error of the event loop")
        what = CALLBACK if message.startswith(CALLBACK) else message
        callback = getattr(context.get("handle"), "_callback", None)
        callback = getattr(callback, "func", callback)  # the function of a partial
        where = str(getattr(callback, "__qualname__", "")) or name_of(
            context.get("task") or context.get("future")
        )
        self.tell(what, context.get("exception"), where)

    def tell(self, what: str, error: BaseException | None, where: str) -> None:
        """Log *error*, unless the limit of the period is reached.

        The next logged error has the number of those that were left out.
        """
        now_s = time.monotonic()
        if now_s - self._since_s >= PERIOD_S:
            self._since_s, self._logged = now_s, 0
        if self._logged >= TOLD_MAX:
            self._untold += 1
            return
        self._logged += 1
        more = {"not_told_before": self._untold} if self._untold else {}
        self._untold = 0
        log.error(what, error="none" if error is None else described(error), where=where, **more)


def watch_leaks(loop: asyncio.AbstractEventLoop) -> None:
    """Log the unhandled errors of *loop*, and of the threads and finalizers of this process."""
    leaks = Leaks()
    loop.set_exception_handler(leaks.of_loop)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            leaks.tell("an error ended a thread", args.exc_value, "a thread")

    def of_deleted(args: "sys.UnraisableHookArgs") -> None:
        where = str(getattr(args.object, "__qualname__", type(args.object).__name__))
        leaks.tell("an error that could not be raised", args.exc_value, where)

    threading.excepthook = of_thread
    sys.unraisablehook = of_deleted
