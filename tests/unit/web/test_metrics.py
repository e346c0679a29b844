"""Tests of metrics: the catalogue and its page, counts of a partition processor, bounded labels."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric as Family

from famulus.observability import metric_definitions as c
from famulus.observability.metrics import PROCESSING_S, Distribution
from famulus.web.api.metrics import Scrape
from famulus.web.worker_status import bounded
from tests.support.in_memory.house import Gate, House, houses, turns
from tests.support.places import ROOT


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Yield a function that makes engines in memory; their task pools stop afterwards."""
    async with houses() as build:
        yield build


def row(metric: c.Metric) -> str:
    """Return the row of *metric* in the page."""
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    alias = f" Alias of `{metric.alias_of}`." if metric.alias_of else ""
    return (
        f"| `{metric.name}` | {metric.kind} | {metric.unit} | {labels} | {metric.question}{alias} |"
    )


def test_the_page_shows_the_catalogue() -> None:
    """The page has each metric once, in the order of the catalogue."""
    page = (ROOT / "docs/metrics.md").read_text("utf-8").splitlines()
    expected = [row(metric) for metric in c.CATALOGUE]
    assert [line for line in page if line.startswith("| `")] == expected, "\n".join(expected)


def test_names_follow_the_rules_of_prometheus() -> None:
    """A counter ends in `_total`, a time has its unit in its name, and names are unique."""
    names = [metric.name for metric in c.CATALOGUE]
    assert len(set(names)) == len(names)
    for metric in c.CATALOGUE:
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        assert metric.unit not in {"seconds", "milliseconds"} or metric.name.endswith(
            metric.unit
        ), metric
        assert not metric.alias_of or metric.alias_of in names


def test_error_types_are_bounded_and_never_go_back() -> None:
    """The series stay monotonic when other error types become more frequent later."""
    failures: Counter[tuple[str, str, str]] = Counter()
    before: Counter[tuple[str, str, str]] = Counter()
    for number in range(10_000):
        failures["permanent", "note", f"Error{number}"] += 1
        failures["permanent", "note", f"Error{number // 2}"] += 1
        if number % 500 == 0:
            now = bounded(failures)
            assert all(now[series] >= count for series, count in before.items())
            before = now
    found = bounded(failures)
    assert len(found) == c.ERROR_TYPES_MAX + 1
    assert sum(found.values()) == 20_000
    assert ("permanent", "note", c.OTHER) in found


def test_a_distribution_is_what_prometheus_makes_of_the_same_values() -> None:
    """Values equal to a bound of a bucket are among them."""
    values = [0.0, 1e-5, 1.1e-5, 0.005, 0.0051, 0.3, 10, 10.1, 400]
    ours, theirs = (
        Distribution(PROCESSING_S),
        Histogram("h", "h", registry=CollectorRegistry(), buckets=PROCESSING_S),
    )
    for value in values:
        ours.note(value)
        theirs.observe(value)
    scrape = Scrape()
    scrape.put_distribution(c.SETTLING, ours, "t")

    def buckets(of: Family) -> list[tuple[float, float]]:
        return [(float(s.labels["le"]), s.value) for s in of.samples if s.name.endswith("_bucket")]

    assert buckets(scrape.families[c.SETTLING.name]) == buckets(next(iter(theirs.collect())))
    assert ours.sum == pytest.approx(sum(values))


@pytest.mark.parametrize("remembers", [True, False])
async def test_what_is_in_flight_has_an_age_and_holds_the_lag(
    make: Callable[..., House], *, remembers: bool
) -> None:
    """The lag counts all offsets that are not settled.

    Transaction markers behind the last record count until they are fetched.
    """
    gate = Gate()
    gate.close("slow")
    house = make(gate, remembers=remembers)
    [processor] = house.processors
    assert (processor.behind(5), processor.in_flight.oldest_ms) == (5, None)
    before_ms = time.time_ns() // 1_000_000
    house.feed(processor, "a slow b c")
    await house.until(
        lambda: processor.checkpointed_offset == 1 and processor.offsets.in_flight == 1
    )
    assert processor.behind(10) == 9
    assert before_ms <= (processor.in_flight.oldest_ms or 0) <= time.time_ns() // 1_000_000
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 4)
    await turns()
    assert (processor.behind(4), processor.behind(10), processor.in_flight.oldest_ms) == (
        0,
        6,
        None,
    )
    processor.position = 5  # a fetch that had only a transaction marker
    assert processor.behind(5) == 0


async def test_events_are_timed_and_groups_are(make: Callable[..., House]) -> None:
    """Slow events count with all of their time, and every record is in one checkpoint."""
    gate = Gate()
    house = make(gate, remembers=True)
    [processor] = house.processors
    house.feed(processor, " ".join(f"k{number}" for number in range(90)))
    await house.until(lambda: processor.checkpointed_offset == 90)
    counts = house.carrier.counts
    assert counts.received == 90
    assert sum(counts.processing_s.counts) == 90
    await turns()
    assert counts.group_records.sum == 90
    assert sum(counts.group_records.counts) == sum(counts.settling_s.counts) == len(house.settled)
    gate.close("slow")
    seen_s = counts.processing_s.sum
    house.feed(processor, "slow")
    await house.until(lambda: processor.lanes.held == 1)
    time.sleep(0.05)  # a handler's time includes a blocked event loop
    gate.doors["slow"].set()
    await house.until(lambda: processor.checkpointed_offset == 91)
    assert counts.processing_s.sum - seen_s > 0.04
