"""How a worker fared in the last minutes: samples of its counts, and the lines that a chart draws of them.

Pure.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

EVERY_S = 2.0
SAMPLES_MAX = 151  # five minutes
# Of a chart, in its own units; the edge keeps the line's width inside.
WIDTH, HEIGHT, EDGE = 300, 60, 3

Kind = Literal["rate", "lag", "errors"]


class Sample(NamedTuple):
    """What was counted at one moment: *at_s* by a clock that never goes back, *ended* and *failed* since the start.

    *failed* are attempts that failed, *lag* is in records.
    """

    at_s: float
    ended: int
    failed: int
    lag: int


class Chart(NamedTuple):
    """A line from 0 to its *top*, the newest value *now* at its right end.

    *points* are as SVG has them.
    """

    kind: Kind
    name: str
    now: float
    top: float
    points: str


class History:
    """Keeps the newest samples."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)

    def note(self, sample: Sample) -> None:
        """The next one."""
        self._samples.append(sample)

    def charts(self) -> list[Chart]:
        """Throughput, lag and errors; none before there are two samples."""
        if len(self._samples) < 2:
            return []
        pairs = list(pairwise(self._samples))
        return [
            _chart("rate", "records/s", [(b.ended - a.ended) / _between(a, b) for a, b in pairs]),
            _chart("lag", "lag, records", [float(b.lag) for _, b in pairs]),
            _chart(
                "errors",
                "failed attempts/s",
                [(b.failed - a.failed) / _between(a, b) for a, b in pairs],
            ),
        ]


def _between(earlier: Sample, later: Sample) -> float:
    return max(later.at_s - earlier.at_s, 0.001)


def _chart(kind: Kind, name: str, values: Sequence[float]) -> Chart:
    top = max(1.0, *values)
    return Chart(kind, name, values[-1], top, " ".join(_points(values, top)))


def _points(values: Sequence[float], top: float) -> Iterator[str]:
    step = WIDTH / (SAMPLES_MAX - 2)  # so many lines lie between as many samples
    first = SAMPLES_MAX - 1 - len(values)
    if len(values) == 1:
        values, first = [*values, *values], first - 1  # a point alone draws nothing
    for n, value in enumerate(values, first):
        yield f"{n * step:.1f},{HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * value / top:.1f}"
