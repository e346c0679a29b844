"""What Prometheus reads of a worker: everything is looked up when it asks, so that no event pays for it."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import get_args

from faust.exceptions import ConsumerNotStarted
from faust.types import TP
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from app.bootstrap import Famulus
from app.engine.flow import Flow
from app.observe import catalogue as c
from app.observe.metrics import Counts, Distribution
from app.wire.envelope import Outcome

FAMILIES = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}
NONE = "none"  # the value of a label that has none


class WorkerCollector(Collector):
    """The metrics of *app*, by the names of `observe.catalogue`."""

    def __init__(self, app: Famulus) -> None:
        self._app = app

    def collect(self) -> Iterator[Family]:
        """Look at everything."""
        scrape = Scrape()
        for subscription in self._app.subscriptions.values():
            self._put_counts(scrape, subscription.topic_name, subscription.counts)
        for tp, flow in self._app.intake.flows.items():
            self._put_partition(scrape, tp, flow)
        for tp, flow in self._app.intake.returning.items():
            settled = flow.backs.of[tp].offsets.next_offset or self._committed(tp) or 0
            if (end := self._log_end(tp)) is not None:
                self._put_lag(scrape, tp, max(end - settled, 0))
        self._put_topics(scrape)
        self._put_worker(scrape)
        yield from scrape.families.values()

    def _put_counts(self, scrape: "Scrape", topic: str, counts: Counts) -> None:
        consumed = self._app.group, topic
        scrape.put(c.RECEIVED, counts.received, "kafka", "poll", *consumed)
        scrape.put_distribution(c.PROCESSING, counts.processing_s, "kafka", "process", *consumed)
        scrape.put_total(c.PROCESSING_ALIAS, counts.processing_s, 1000, topic)
        for outcome in get_args(Outcome):
            scrape.put(c.OUTCOMES, counts[outcome], topic, outcome)
        scrape.put(c.RETRIES, counts["retried"], topic)
        scrape.put(c.POSTPONED, counts["postponed"], topic)
        for (kind, handler, error), count in bounded(counts.failures).items():
            scrape.put(c.DEAD_LETTERS, count, topic, kind, handler or NONE, error)
        scrape.put_distribution(c.GROUP_RECORDS, counts.group_records, topic)
        scrape.put_distribution(c.SETTLING, counts.settling_s, topic)

    def _put_partition(self, scrape: "Scrape", tp: TP, flow: Flow) -> None:
        at = tp.topic, str(tp.partition)
        oldest_ms = flow.in_flight.oldest_ms
        age_s = 0.0 if oldest_ms is None else max(time.time() - oldest_ms / 1000, 0.0)
        scrape.put(c.IN_FLIGHT, flow.offsets.in_flight, *at)
        scrape.put(c.OLDEST, age_s, *at)
        scrape.put(c.IN_HAND, flow.lanes.held, *at)
        scrape.put(c.BACKLOG, flow.lanes.waiting, *at)
        scrape.put(c.RESTING, flow.lanes.resting, *at)
        scrape.put(c.WINDOW_FULL, flow.in_flight.is_held, *at)
        committed = self._committed(tp)
        settled = flow.begin if flow.settled_offset is None else flow.settled_offset
        scrape.put(c.COMMIT_GAP, max(settled - (flow.begin if committed is None else committed), 0), *at)
        if (end := self._log_end(tp)) is not None:
            self._put_lag(scrape, tp, flow.behind(end))

    def _put_lag(self, scrape: "Scrape", tp: TP, lag: int) -> None:
        scrape.put(c.LAG, lag, self._app.group, tp.topic, str(tp.partition))
        scrape.put(c.LAG_ALIAS, lag, tp.topic, str(tp.partition))

    def _put_topics(self, scrape: "Scrape") -> None:
        flows = self._app.intake.flows
        owned = Counter(tp.topic for tp in flows)
        halted = Counter(tp.topic for tp, flow in flows.items() if flow.halted)
        unsent = Counter(tp.topic for tp, flow in flows.items() if flow.blocked)
        for subscription in self._app.subscriptions.values():
            topic = subscription.topic_name
            scrape.put(c.OWNED, owned[topic], topic)
            scrape.put(c.BLOCKED, halted[topic], topic, "halted")
            scrape.put(c.BLOCKED, unsent[topic], topic, "unsent")
        for topic, pipeline in self._app.pipelines.items():
            scrape.put(c.FLOOD, pipeline.failing.flood.is_open, topic)

    def _put_worker(self, scrape: "Scrape") -> None:
        sent: Counter[str] = Counter()
        for number, (topic, count) in enumerate(self._app.sender.sent.items()):
            sent[topic if number < c.TOPICS_SENT_MAX else c.OTHER] += count
        for topic, count in sent.items():
            scrape.put(c.SENT, count, "kafka", "send", topic)
        is_open: Counter[str] = Counter()  # a handler of several types has a gate for each
        waiting: Counter[str] = Counter()
        for handler in self._app.dispatcher.handlers:
            is_open[handler.name] += handler.gate.is_open
            waiting[handler.name] += handler.gate.waiting
        for name, gates in is_open.items():
            scrape.put(c.BREAKER_OPEN, gates > 0, name)
            scrape.put(c.BREAKER_WAITING, waiting[name], name)
        scrape.put(c.CLAIMS_AWAY, bool(self._app.claims.away))
        scrape.put(c.LATE_REPLIES, self._app.bus.late_replies)
        scrape.put(c.READY, self._app.is_restored and not self._app.stuck)

    def _committed(self, tp: TP) -> int | None:
        consumer = self._app._consumer
        return None if consumer is None else consumer._committed_offset.get(tp)  # type: ignore[attr-defined]

    def _log_end(self, tp: TP) -> int | None:
        """One past the newest record of *tp* as of its last fetch, None before any."""
        consumer = self._app._consumer
        try:
            return None if consumer is None else consumer.highwater(tp)
        except (AssertionError, AttributeError, KeyError, ConsumerNotStarted):
            return None  # taken away meanwhile: aiokafka's thread knows before we do


class Scrape:
    """The metrics of one moment. Those without a series are there, too: their names are known from the start."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {
            metric.name: FAMILIES[metric.kind](metric.name, metric.question, labels=metric.labels)
            for metric in c.CATALOGUE
        }

    def put(self, metric: c.Metric, value: float, *labels: str) -> None:
        """A counter or a gauge."""
        family = self.families[metric.name]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)

    def put_distribution(self, metric: c.Metric, of: Distribution, *labels: str) -> None:
        """A histogram."""
        family = self.families[metric.name]
        assert isinstance(family, HistogramMetricFamily)
        bounds: Iterable[str] = (*(str(float(bound)) for bound in of.bounds), "+Inf")
        family.add_metric(labels, list(zip(bounds, accumulate(of.counts), strict=True)), of.sum)

    def put_total(self, metric: c.Metric, of: Distribution, factor: float, *labels: str) -> None:
        """A summary: count, and sum in another unit."""
        family = self.families[metric.name]
        assert isinstance(family, SummaryMetricFamily)
        family.add_metric(labels, sum(of.counts), of.sum * factor)


def bounded(failures: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str, str]]:
    """*failures* with the error types that came first; those that came later count as `other`.

    The first ones, not the most frequent, since a series must never go back.
    """
    named: set[str] = set()
    found: Counter[tuple[str, str, str]] = Counter()
    for (kind, handler, error), count in failures.items():
        if len(named) < c.ERROR_TYPES_MAX:
            named.add(error)
        found[kind, handler, error if error in named else c.OTHER] += count
    return found
