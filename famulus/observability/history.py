"""Samples of a worker's counts over the last five minutes, and charts of them. Pure."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

EVERY_S = 2.0
SAMPLES_MAX = 151  # five minutes
# Size of a chart in its own units. The edge keeps the full width of the line visible.
WIDTH, HEIGHT, EDGE = 300, 60, 3

Kind = Literal["rate", "lag", "errors"]


class Sample(NamedTuple):
    """Counts at one moment.

    *at_s* is the time by a monotonic clock, in seconds. *ended* and *failed* count the records that
    ended and the attempts that failed since the start. *lag* is in records.
    """

    at_s: float
    ended: int
    failed: int
    lag: int


class Chart(NamedTuple):
    """Line chart from 0 to *top*, with the newest value *now* at its right end.

    *points* has the format of an SVG polyline.
    """

    kind: Kind
    name: str
    now: float
    top: float
    points: str


class History:
    """Newest samples of a worker, `SAMPLES_MAX` at most."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_MAX)

    def note(self, sample: Sample) -> None:
        """Add a sample."""
        self._samples.append(sample)

    def charts(self) -> list[Chart]:
        """Return the charts of throughput, lag and errors; none with fewer than two samples."""
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
    step = WIDTH / (SAMPLES_MAX - 2)  # n samples give n - 1 points, with n - 2 steps between them
    first = SAMPLES_MAX - 1 - len(values)
    if len(values) == 1:
        values, first = [*values, *values], first - 1  # a single point would draw nothing
    for n, value in enumerate(values, first):
        yield f"{n * step:.1f},{HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * value / top:.1f}"
