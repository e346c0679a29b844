"""The time by this machine's clock."""

import time


def wall_ms() -> int:
    """Return the time, milliseconds since 1970."""
    return time.time_ns() // 1_000_000
