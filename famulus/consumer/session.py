"""Whether the group still counts on this worker, as far as its process can tell: a heartbeat was answered in time.

A worker that was frozen for longer than its session is asked this before it writes anything: by
then its partitions belong to others.
"""

import time
from typing import Any


class GroupSession:
    """The worker's place in its group, kept by the heartbeats of aiokafka's coordinator."""

    def __init__(self) -> None:
        # When the last heartbeat that was answered was sent, by the monotonic clock.
        self.answered_at = 0.0
        self._coordinator: Any = None  # whose heartbeats are watched

    def is_held(self, session_timeout_s: float) -> bool:
        """Whether a heartbeat was answered within the session timeout."""
        return time.monotonic() - self.answered_at < session_timeout_s

    def renew(self, coordinator: Any) -> None:
        """Count joining as a heartbeat; from then on *coordinator*'s own do."""
        self.answered_at = time.monotonic()
        self.watch(coordinator)

    def watch(self, coordinator: Any) -> None:
        """Have the heartbeats of *coordinator* count from now on."""
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
