"""A sketch of the heaviest items of a stream, of bounded size.

The algorithm is that of Anderson et al., "A High-Performance Algorithm for Identifying Frequent
Items in Data Streams" (2017, arXiv:1705.07001): counters for at most CAPACITY items; when there are
more, the median counter is subtracted from all, and those that reach zero are dropped.
"""

from collections.abc import Iterator
from statistics import median_low

CAPACITY = 384  # items; the error is at most a 192nd of the total weight


class FrequentItems:
    """Counters of texts. *error* is the largest amount by which a lower bound may be too low."""

    __slots__ = ("_counters", "error")

    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self.error = 0

    def update(self, item: str, weight: int) -> None:
        """Add *weight*, not negative, to an item."""
        counters = self._counters
        counters[item] = counters.get(item, 0) + weight
        if len(counters) > CAPACITY:
            self._purge()

    def merge(self, other: "FrequentItems") -> None:
        """Add the counters of another sketch."""
        for item, weight in other._counters.items():
            self.update(item, weight)
        self.error += other.error

    def estimate(self, item: str) -> int:
        """Return the upper bound of an item's weight, 0 for one without a counter.

        The weight of an item without a counter is at most *error*.
        """
        count = self._counters.get(item)
        return 0 if count is None else count + self.error

    def frequent(self) -> Iterator[tuple[str, int]]:
        """Yield each item that is certainly heavier than *error*, with its estimate."""
        for item, count in self._counters.items():
            if count > self.error:
                yield item, count + self.error

    def _purge(self) -> None:
        cut = median_low(self._counters.values())
        self._counters = {
            item: count - cut for item, count in self._counters.items() if count > cut
        }
        self.error += cut
