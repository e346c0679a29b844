"""The metrics of the catalogue as observable instruments of OpenTelemetry.

Names and attributes are those of the semantic conventions for messaging, 1.44, and for lag those of
the Collector's Kafka receiver. Metrics without a name there have the name of the catalogue with a
dot, such as `famulus.retries`. OpenTelemetry has no observable histogram, so a histogram becomes
two counters, `.count` and `.sum`. Aliases exist for dashboards of Prometheus only and are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation
from prometheus_client.core import Metric as Family

from famulus.observability import metric_definitions as c
from famulus.observability.otel_tracing import SCHEMA_URL

Read = Callable[[], Iterable[Family]]
NAMES = {
    c.RECEIVED: "messaging.client.consumed.messages",
    c.SENT: "messaging.client.sent.messages",
    # The name in the conventions is that of a histogram, which this is not.
    c.PROCESSING: "famulus.process.duration",
    c.LAG: "kafka.consumer_group.lag",
    c.LAG_S: "famulus.lag.age",
}
UNITS = {
    "records": "{message}",
    "bytes": "By",
    "calls": "{call}",
    "attempts": "{attempt}",
    "partitions": "{partition}",
    "offsets": "{offset}",
    "seconds": "s",
    "0 or 1": "1",
    "conditions": "{condition}",
}
GENERAL = {
    "messaging_system": "messaging.system",
    "messaging_operation_name": "messaging.operation.name",
    "messaging_consumer_group_name": "messaging.consumer.group.name",
    "messaging_destination_name": "messaging.destination.name",
    "topic": "messaging.destination.name",
    "partition": "messaging.destination.partition.id",
    "group": "messaging.consumer.group.name",
    "error_type": "error.type",
    "type": "cloudevents.event_type",
}
ATTRIBUTES: dict[c.Metric, Mapping[str, str]] = {
    c.LAG: {"consumergroup": "group", "topic": "topic", "partition": "partition"}
}


class Instrument(NamedTuple):
    """One instrument, and the *series* of the catalogue whose values it reports."""

    name: str
    series: str
    unit: str
    is_counter: bool
    metric: c.Metric


def instruments() -> Iterator[Instrument]:
    """Yield every instrument."""
    for metric in c.CATALOGUE:
        if metric.alias_of:
            continue
        name, unit = name_of(metric), UNITS[metric.unit]
        if metric.kind == "histogram":
            yield Instrument(
                f"{name}.count", f"{metric.name}_count", "1", is_counter=True, metric=metric
            )
            yield Instrument(
                f"{name}.sum", f"{metric.name}_sum", unit, is_counter=True, metric=metric
            )
        else:
            yield Instrument(
                name, metric.name, unit, is_counter=metric.kind == "counter", metric=metric
            )


def name_of(metric: c.Metric) -> str:
    """Return the metric's name for OpenTelemetry, without unit and kind."""
    own = (
        metric.name.removesuffix("_total")
        .removesuffix("_seconds")
        .replace("famulus_", "famulus.", 1)
    )
    return NAMES.get(metric, own)


class Meters:
    """Instruments of one process.

    *read* returns all metrics of the catalogue. A collection by an OpenTelemetry reader calls it
    once.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._found: dict[str, list[tuple[float, dict[str, str]]]] = {}
        self._scraped: set[str] = set()  # instruments that have reported the present values
        meter = metrics.get_meter("famulus", schema_url=SCHEMA_URL)
        for of in instruments():
            create = (
                meter.create_observable_counter if of.is_counter else meter.create_observable_gauge
            )
            create(of.name, [partial(self._observe, of)], of.unit, of.metric.question)

    def _observe(self, of: Instrument, options: CallbackOptions) -> Iterator[Observation]:
        """Yield the values of one instrument, as the callback of a collection.

        A reader calls each callback once per collection. A second call therefore begins the next
        collection, and reads the metrics again.
        """
        del options
        if of.name in self._scraped or not self._scraped:
            self._look()
        self._scraped.add(of.name)
        names = ATTRIBUTES.get(of.metric, GENERAL)
        for value, labels in self._found.get(of.series, ()):
            attributes = {
                names.get(label, f"famulus.{label}"): text for label, text in labels.items()
            }
            yield Observation(int(value) if isinstance(value, bool) else value, attributes)

    def _look(self) -> None:
        found = defaultdict(list)
        for family in self._read():
            for sample in family.samples:
                found[sample.name].append((sample.value, sample.labels))
        self._found = dict(found)
        self._scraped = set()
