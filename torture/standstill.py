"""Whether a worker stands still behind green: it has work, does nothing of it for long, and says that it is well."""

from collections.abc import Callable, Iterable, Mapping

# Nothing of a partition was settled for so long: workers are asked whether they are well.
ASK_S = 2.0
# A worker that was green for so long since, each time that it was asked, stands still.
GREEN_S = 32.0
AGAIN_S = 1.0  # between two times
Green = Callable[[], Mapping[int, Iterable[int]]]
# Which worker, which partition, and since when nothing of it was settled.
At = tuple[int, int, float]


def is_green(status: int, answer: Mapping[str, object]) -> bool:
    """Whether /readyz says that all is well, and neither for what the worker waits nor what is paused."""
    return status == 200 and not (answer.get("waiting") or answer.get("paused"))


class Standstills:
    """Looks for them. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._green_since: dict[At, float] = {}
        self._asked_at = float("-inf")

    def look(self, now: float, lagging_since: Mapping[int, float], green: Green) -> list[At]:
        """Which worker, by its number, stands still at which partition, and since when.

        *lagging_since*: since when nothing was settled of a partition with work. *green*: the
        workers that are, and their partitions; they are asked only when it matters.
        """
        if now - self._asked_at < AGAIN_S:
            return []
        late = {
            partition: since for partition, since in lagging_since.items() if now - since > ASK_S
        }
        seen = [
            (worker, partition, late[partition])
            for worker, partitions in (green() if late else {}).items()
            for partition in late.keys() & set(partitions)
        ]
        self._asked_at = now
        self._green_since = {at: self._green_since.get(at, now) for at in seen}
        return sorted(at for at, began in self._green_since.items() if now - began > GREEN_S)
