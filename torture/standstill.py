"""Whether a worker stands still behind green: it has work, does nothing of it for long, and says that it is well."""

from collections.abc import Callable, Iterable, Mapping

GREEN_S = 32.0  # nothing of a partition was settled for so long: its worker may not be green without a reason any more
CERTAIN_S = 3.0  # and it is still so after this: what is looked at from outside is seen late
Green = Callable[[], Mapping[int, Iterable[int]]]


def is_green(status: int, answer: Mapping[str, object]) -> bool:
    """Whether /readyz says that all is well, and neither for what the worker waits nor what is paused."""
    return status == 200 and not (answer.get("waiting") or answer.get("paused"))


class Standstills:
    """Looks for them. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._green_since: dict[tuple[int, int, float], float] = {}

    def look(self, now: float, lagging_since: Mapping[int, float], green: Green) -> list[tuple[int, int, float]]:
        """Which worker, by its number, stands still at which partition, and since when.

        *lagging_since*: since when nothing was settled of a partition with work. *green*: the workers that are, and
        their partitions; they are asked only when it matters.
        """
        late = {partition: since for partition, since in lagging_since.items() if now - since > GREEN_S}
        seen = {
            (worker, partition, late[partition]): self._green_since.get((worker, partition, late[partition]), now)
            for worker, partitions in (green() if late else {}).items()
            for partition in late.keys() & set(partitions)
        }
        self._green_since = seen
        return sorted(at for at, began in seen.items() if now - began > CERTAIN_S)
