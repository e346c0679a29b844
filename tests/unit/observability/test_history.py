"""Tests of the charts of the overview: rates between samples, drawn from the right edge."""

import pytest

from famulus.observability.history import EDGE, HEIGHT, SAMPLES_MAX, WIDTH, Chart, History, Sample


def history(*samples: tuple[float, int, int, int]) -> list[Chart]:
    """Return the charts after *samples*."""
    of = History()
    for sample in samples:
        of.note(Sample(*sample))
    return of.charts()


def points(chart: Chart) -> list[tuple[float, float]]:
    """Return the points of the line."""
    return [
        (float(x), float(y)) for x, _, y in (point.partition(",") for point in chart.points.split())
    ]


def test_a_rate_needs_two_samples() -> None:
    """Two samples make a short line at the right edge."""
    assert history() == history((0.0, 5, 0, 0)) == []
    rate, lag, errors = history((0.0, 5, 0, 9), (2.0, 25, 1, 4))
    assert (rate.now, lag.now, errors.now) == (10, 4, 0.5)
    assert (rate.top, errors.top) == (10, 1)
    assert points(rate)[-1] == (WIDTH, EDGE)
    assert points(errors)[-1] == (WIDTH, HEIGHT / 2)
    assert len(points(rate)) == 2


@pytest.mark.parametrize("count", [3, SAMPLES_MAX, 3 * SAMPLES_MAX])
def test_every_line_stays_inside(count: int) -> None:
    """The values are quadratic, constant and periodic."""
    for chart in history(*((2.0 * n, n * n, n // 3, n % 7) for n in range(count))):
        xs, ys = zip(*points(chart), strict=True)
        assert list(xs) == sorted(xs)
        assert (min(xs) >= 0, max(xs)) == (True, WIDTH)
        assert (min(ys) >= EDGE, max(ys) <= HEIGHT - EDGE) == (True, True)
        assert len(xs) == min(count, SAMPLES_MAX) - 1


def test_samples_at_one_time_divide_by_nothing() -> None:
    """A delayed loop may wake twice at the same time."""
    rate, *_ = history((1.0, 0, 0, 0), (1.0, 1, 0, 0))
    assert rate.now == 1000
