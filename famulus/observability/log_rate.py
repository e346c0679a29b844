"""Rate limit for the logs of libraries: repeated messages are suppressed and counted.

aiokafka logs every attempt: a script with an unavailable broker printed 1,800 lines a second. A
filter on the libraries' own loggers suppresses repetitions. Handlers, levels and formats of the
process stay as they are.
"""

import logging
import re
import threading
import time
from collections.abc import Callable

LIBRARIES = ("aiokafka", "kafka", "faust", "mode", "aiohttp", "asyncio")
EVERY_S = 30.0  # period of the limit
BURST = 3  # times that a message passes per period, since it may come from two or three places
NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9]+")
KEPT = 500  # messages whose counts are kept
CALM = logging.WARNING  # lowest level that is limited; lower ones are logged by choice


class Rate(logging.Filter):
    """Filter that passes each message *BURST* times per *EVERY_S* seconds.

    The next line that passes states how many were suppressed. Messages are the same if logger,
    level and template are the same, regardless of the values in them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        # Of each message: the start of its period, and how many have passed and were suppressed.
        self._said: dict[tuple[str, int, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is to be logged."""
        if record.levelno < CALM:
            return True
        key, now = (record.name, record.levelno, _template(record)), self._clock()
        with self._lock:
            said = self._said.pop(key, None)
            held = 0
            if said is None or now - said[0] >= EVERY_S:
                held = int(said[2]) if said is not None else 0
                said = [now, 0, 0]
            is_let = said[1] < BURST
            said[1 if is_let else 2] += 1
            self._said[key] = said  # at the end, as the newest
            if len(self._said) > KEPT:
                del self._said[next(iter(self._said))]
        if is_let and held:
            record.msg, record.args = f"{record.getMessage()} (and {held:,} more times before)", ()
        return is_let


def _template(record: logging.LogRecord) -> str:
    """Return the text of *record* without its values.

    A text that was formatted before logging has no template, so its numbers are replaced.
    """
    text = str(record.msg)[:200]
    return text if record.args else NUMBERS.sub("#", text)


_rate = Rate()


def calm_libraries() -> None:
    """Limit the rate of every existing logger of LIBRARIES.

    A filter of a logger does not see the records of its children, so each logger gets the filter.
    Loggers that are created later get it by the next call.
    """
    names = [
        name
        for name in list(logging.Logger.manager.loggerDict)
        if name.partition(".")[0] in LIBRARIES
    ]
    for name in {*LIBRARIES, *names}:
        logging.getLogger(name).addFilter(_rate)  # has no effect the second time
