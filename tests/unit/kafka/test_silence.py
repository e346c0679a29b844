"""Tests of muting aiokafka's log: several callers may mute it, and end in any order."""

import logging

from famulus.kafka.silence import silenced

LOG = logging.getLogger("aiokafka")


def test_those_that_mute_it_at_the_same_time_do_not_disturb_each_other() -> None:
    """A caller that restored the level it found would unmute too early, or mute forever."""
    before = LOG.level
    first, second = silenced(), silenced()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert LOG.level == logging.CRITICAL
    second.__exit__(None, None, None)
    assert LOG.level == before
