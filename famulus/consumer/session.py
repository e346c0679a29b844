"""The group session: whether a heartbeat was answered within the session timeout.

A worker checks this before it writes. If its process was frozen for longer than the session
timeout, its partitions belong to other workers by then.
"""

import time
from typing import Any


class GroupSession:
    """The worker's session with its group, renewed by the heartbeats of aiokafka's coordinator."""

    def __init__(self) -> None:
        # When the last answered heartbeat was sent, in seconds of the monotonic clock.
        self.answered_at = 0.0
        self._coordinator: Any = None  # the one whose heartbeats are watched

    def is_held(self, session_timeout_s: float) -> bool:
        """Return whether a heartbeat was answered within the session timeout."""
        return time.monotonic() - self.answered_at < session_timeout_s

    def renew(self, coordinator: Any) -> None:
        """Count joining the group as a heartbeat, and watch *coordinator* from then on."""
        self.answered_at = time.monotonic()
        self.watch(coordinator)

    def watch(self, coordinator: Any) -> None:
        """Renew the session with each answered heartbeat of *coordinator* from now on."""
        if coordinator is self._coordinator:
            return
        self._coordinator, beat = coordinator, coordinator._do_heartbeat

        async def noted() -> bool:
            asked_at = time.monotonic()
            answered: bool = await beat()
            if answered:
                self.answered_at = asked_at
            return answered

        coordinator._do_heartbeat = noted
