"""aiokafka's own log, muted while we ask for something: it tells of every attempt, and we say it once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger("aiokafka")
_before: list[int] = []  # its level before each that is muting it now


@contextmanager
def silenced() -> Iterator[None]:
    """Mute it.

    Those that do so at the same time do not disturb each other: the last one to end unmutes it.
    """
    _before.append(_log.level)
    _log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _log.setLevel(logging.CRITICAL if len(_before) > 1 else _before[0])
        _before.pop()
