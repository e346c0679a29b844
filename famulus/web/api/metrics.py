"""Metrics of a worker for Prometheus, collected at each scrape: events pay nothing."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import get_args

from faust.types import TP
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from famulus.application import Famulus
from famulus.kafka.burrow import State
from famulus.kafka.partition_health import PartitionHealth
from famulus.kafka.stray_counts import strays
from famulus.observability import metric_definitions as c
from famulus.observability.metrics import Counts, Distribution
from famulus.processing.failures.circuit_breaker import CLOSED
from famulus.processing.subscription import Subscription
from famulus.serialization.records import Outcome
from famulus.web.readiness import is_ready
from famulus.web.worker_status import PartitionNow, bounded, partitions_of, returning_lag

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
        owned = list(partitions_of(self._app))
        looks = {
            now.place: (now.end, now.lag)
            for now in owned
            if now.end is not None and now.lag is not None
        }
        held_up = {now.place for now in owned if now.is_held_up}
        standings = self._app.standings.look(time.monotonic(), looks, held_up)
        for now in owned:
            self._put_partition(scrape, now)
            if (standing := standings.get(now.place)) is not None:
                self._put_standing(scrape, now, standing)
        for tp, lag in returning_lag(self._app):
            self._put_lag(scrape, tp, lag)
        self._put_topics(scrape, owned)
        for subscription in self._app.subscriptions.values():
            self._put_distribution(scrape, subscription, owned)
        self._put_worker(scrape)
        yield from scrape.families.values()

    def _put_counts(self, scrape: "Scrape", topic: str, counts: Counts) -> None:
        consumed = self._app.group, topic
        scrape.put(c.RECEIVED, counts.received, "kafka", "poll", *consumed)
        scrape.put_distribution(c.PROCESSING, counts.processing_s, "kafka", "process", *consumed)
        for name, seconds in list(counts.types_s.items()):
            scrape.put_distribution(c.TYPE_PROCESSING, seconds, topic, name)
        scrape.put_total(c.PROCESSING_ALIAS, counts.processing_s, 1000, topic)
        for outcome in get_args(Outcome):
            scrape.put(c.OUTCOMES, counts[outcome], topic, outcome)
        scrape.put(c.RETRIES, counts["retried"], topic)
        scrape.put(c.POSTPONED, counts["postponed"], topic)
        scrape.put(c.GONE, counts.gone, topic)
        for (kind, handler, error), count in bounded(counts.failures).items():
            scrape.put(c.DEAD_LETTERS, count, topic, kind, handler or NONE, error)
        scrape.put_distribution(c.GROUP_RECORDS, counts.group_records, topic)
        scrape.put_distribution(c.SETTLING, counts.settling_s, topic)

    def _put_partition(self, scrape: "Scrape", now: PartitionNow) -> None:
        at = now.place.topic, str(now.place.partition)
        scrape.put(c.IN_FLIGHT, now.in_flight, *at)
        scrape.put(c.OLDEST, now.oldest_s, *at)
        scrape.put(c.IN_HAND, now.in_hand, *at)
        scrape.put(c.BACKLOG, now.waiting, *at)
        scrape.put(c.RESTING, now.resting, *at)
        scrape.put(c.WINDOW_FULL, now.is_window_full, *at)
        scrape.put(c.COMMIT_GAP, now.commit_gap, *at)
        if now.lag is not None:
            self._put_lag(scrape, now.place, now.lag)

    def _put_standing(self, scrape: "Scrape", now: PartitionNow, standing: PartitionHealth) -> None:
        at = now.place.topic, str(now.place.partition)
        age_s = standing.waits_s if now.age_s is None or not now.lag else now.age_s
        scrape.put(c.LAG_S, age_s, self._app.group, *at)
        if standing.eta_s is not None:
            scrape.put(c.ETA, standing.eta_s, *at)
        for state in State:
            scrape.put(c.STATE, standing.state is state, *at, state)

    def _put_lag(self, scrape: "Scrape", tp: TP, lag: int) -> None:
        scrape.put(c.LAG, lag, self._app.group, tp.topic, str(tp.partition))
        scrape.put(c.LAG_ALIAS, lag, tp.topic, str(tp.partition))

    def _put_topics(self, scrape: "Scrape", owned: Sequence[PartitionNow]) -> None:
        for subscription in self._app.subscriptions.values():
            topic = subscription.topic_name
            of_topic = [now for now in owned if now.place.topic == topic]
            scrape.put(c.OWNED, len(of_topic), topic)
            scrape.put(c.BLOCKED, sum(bool(now.halted) for now in of_topic), topic, "halted")
            unwritten = sum(now.is_unwritten for now in of_topic)
            scrape.put(
                c.BLOCKED, sum(bool(now.blocked) for now in of_topic) - unwritten, topic, "unsent"
            )
            scrape.put(c.BLOCKED, unwritten, topic, "disk")
            scrape.put(c.PAUSED, sum(bool(now.paused) for now in of_topic), topic)
        for topic, pipeline in self._app.pipelines.items():
            scrape.put(c.FLOOD, bool(pipeline.failure_policy.open_breakers), topic)

    @staticmethod
    def _put_distribution(
        scrape: "Scrape", subscription: Subscription, owned: Sequence[PartitionNow]
    ) -> None:
        """Add the records and bytes of each partition, those that were revoked included."""
        topic, by_partition = subscription.topic_name, subscription.counts.by_partition
        mine = {now.place.partition for now in owned if now.place.topic == topic}
        for partition in sorted(mine | by_partition.keys()):
            records, size = by_partition.get(partition, (0, 0))
            scrape.put(c.IN_RECORDS, records, topic, str(partition))
            scrape.put(c.IN_BYTES, size, topic, str(partition))

    def _put_worker(self, scrape: "Scrape") -> None:
        sent: Counter[str] = Counter()
        for number, (topic, count) in enumerate(self._app.sender.sent.items()):
            sent[topic if number < c.TOPICS_SENT_MAX else c.OTHER] += count
        for topic, count in sent.items():
            scrape.put(c.SENT, count, "kafka", "send", topic)
        is_open: Counter[str] = Counter()  # a handler of several types has one for each
        waiting: Counter[str] = Counter()
        for handler in self._app.dispatcher.handlers:
            is_open[handler.name] += handler.breaker.state is not CLOSED
            waiting[handler.name] += handler.breaker.waiting
        for name, count in is_open.items():
            scrape.put(c.BREAKER_OPEN, count > 0, name)
            scrape.put(c.BREAKER_WAITING, waiting[name], name)
        scrape.put(c.CLAIMS_AWAY, bool(self._app.claims.away))
        for name, count in self._app.consumers.failures.items():
            scrape.put(c.ON_CONSUMED, count, name)
        scrape.put(c.LATE_REPLIES, self._app.bus.late_replies)
        for kind, strange in strays.counts.items():
            scrape.put(c.STRAYS, strange, kind)
        scrape.put(c.READY, is_ready(self._app))
        for name, count in self._app.watch.counts.items():
            scrape.put(c.CONDITIONS, count, name)
        if (ahead_s := self._app.clock.ahead_s) is not None:
            scrape.put(c.CLOCK_AHEAD, ahead_s)


class Scrape:
    """The metrics of one moment.

    Metrics without a series are included: their names are known from the start.
    """

    def __init__(self) -> None:
        self.families: dict[str, Family] = {
            metric.name: FAMILIES[metric.kind](metric.name, metric.question, labels=metric.labels)
            for metric in c.CATALOGUE
        }

    def put(self, metric: c.Metric, value: float, *labels: str) -> None:
        """Add a sample of a counter or a gauge."""
        family = self.families[metric.name]
        assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
        family.add_metric(labels, value)

    def put_distribution(self, metric: c.Metric, of: Distribution, *labels: str) -> None:
        """Add a histogram."""
        family = self.families[metric.name]
        assert isinstance(family, HistogramMetricFamily)
        bounds: Iterable[str] = (*(str(float(bound)) for bound in of.bounds), "+Inf")
        family.add_metric(labels, list(zip(bounds, accumulate(of.counts), strict=True)), of.sum)

    def put_total(self, metric: c.Metric, of: Distribution, factor: float, *labels: str) -> None:
        """Add a summary: the count, and the sum multiplied by *factor*."""
        family = self.families[metric.name]
        assert isinstance(family, SummaryMetricFamily)
        family.add_metric(labels, sum(of.counts), of.sum * factor)
