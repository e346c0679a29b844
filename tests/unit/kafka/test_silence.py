"""aiokafka's log is heard again when nobody mutes it any more, in whatever order they end."""

import logging

from famulus.kafka.silence import silenced

LOG = logging.getLogger("aiokafka")


def test_those_that_mute_it_at_the_same_time_do_not_disturb_each_other() -> None:
    """The first one that ends would unmute it for the other, and the other would mute it for ever."""
    before = LOG.level
    first, second = silenced(), silenced()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert LOG.level == logging.CRITICAL
    second.__exit__(None, None, None)
    assert LOG.level == before
