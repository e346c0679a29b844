"""The logs of libraries at a bounded rate: what is said over and over is said once, and later how often it was.

aiokafka tells of every attempt: a script whose broker is away printed 1,800 lines a second. A
filter on the libraries' own loggers holds repetitions back; the handlers, levels and formats of
whoever logs stay as they are.
"""

import logging
import re
import threading
import time
from collections.abc import Callable

LIBRARIES = ("aiokafka", "kafka", "faust", "mode", "aiohttp", "asyncio")
EVERY_S = 30.0  # one message is said once in so long
BURST = 3  # and as often at first, since two or three different places may be meant
NUMBERS = re.compile(r"0x[0-9a-f]+|[0-9]+")
KEPT = 500  # messages that are remembered
CALM = logging.WARNING  # from here on; what is below is asked for, or of no interest


class Rate(logging.Filter):
    """Lets each message through *BURST* times in *EVERY_S* seconds, and says with the next one how many there were.

    A message is its logger, its level and its template: the values in it do not make it another
    one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        # Since when, how many were said, and held back.
        self._said: dict[tuple[str, int, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether *record* is to be logged."""
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
            self._said[key] = said  # the newest last
            if len(self._said) > KEPT:
                del self._said[next(iter(self._said))]
        if is_let and held:
            record.msg, record.args = f"{record.getMessage()} (and {held:,} more times before)", ()
        return is_let


def _template(record: logging.LogRecord) -> str:
    """The text without its values.

    One that was put together before has no template: its words without digits count.
    """
    text = str(record.msg)[:200]
    return text if record.args else NUMBERS.sub("#", text)


_rate = Rate()


def calm_libraries() -> None:
    """Bound the rate of every logger of LIBRARIES that there is.

    Those that are made later are met by the next call.

    A logger's filter does not hear what its children log, so each has it.
    """
    names = [
        name
        for name in list(logging.Logger.manager.loggerDict)
        if name.partition(".")[0] in LIBRARIES
    ]
    for name in {*LIBRARIES, *names}:
        logging.getLogger(name).addFilter(_rate)  # which adds it once
