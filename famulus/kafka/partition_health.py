"""Health of the partitions of one worker, from samples of its own numbers. Pure."""

from collections.abc import Collection, Mapping
from typing import Generic, NamedTuple, TypeVar

from famulus.kafka.burrow import LagSample, State, eta_s_of, kept, rates_of, state_of

P = TypeVar("P")


class PartitionHealth(NamedTuple):
    """Health of a partition; *state* is None while the window is too short.

    *eta_s* is the time until the lag is zero, None for never or unknown; *waits_s* is how long
    there has been lag without any progress, 0 without lag. Both are seconds.
    """

    state: State | None
    eta_s: float | None
    waits_s: float


class PartitionHealths(Generic[P]):
    """A window of samples for each partition, by any key that names it."""

    def __init__(self) -> None:
        self._windows: dict[P, list[LagSample]] = {}
        # By lagging partition: its position, and the time in seconds since it has not moved.
        self._since_s: dict[P, tuple[int, float]] = {}

    def look(
        self, at_s: float, places: Mapping[P, tuple[int, int]], held_up: Collection[P] = ()
    ) -> dict[P, PartitionHealth]:
        """Take a sample at *at_s*, and return the health of each of *places*.

        *at_s* is in seconds, of any clock. *places* has the end offset of the log and the lag of
        each partition. Partitions in *held_up* are blocked by an open transaction. Partitions that
        are missing in *places* were revoked, and are forgotten.
        """
        looks = {
            at: LagSample(at_s, 0, end, end - lag, is_held=True, is_held_up=at in held_up)
            for at, (end, lag) in places.items()
        }
        self._windows = {at: kept(self._windows.get(at, ()), look) for at, look in looks.items()}
        before, self._since_s = self._since_s, {}
        found = {}
        for at, window in self._windows.items():
            now = window[-1]
            if now.lag:
                position, since_s = before.get(at, (now.position, at_s))
                self._since_s[at] = now.position, since_s if position == now.position else at_s
            waits_s = at_s - self._since_s[at][1] if now.lag else 0.0
            found[at] = PartitionHealth(
                state_of(window), eta_s_of(now.lag, rates_of(window)), waits_s
            )
        return found
