"""Muting of aiokafka's log during queries: it logs every attempt, the engine reports once."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger("aiokafka")
_before: list[int] = []  # the log level at the begin of each active block


@contextmanager
def silenced() -> Iterator[None]:
    """Mute the log within the block.

    Overlapping blocks are counted: the last one to end unmutes it.
    """
    _before.append(_log.level)
    _log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        _log.setLevel(logging.CRITICAL if len(_before) > 1 else _before[0])
        _before.pop()
