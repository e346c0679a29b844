"""Tests of the catalogue in OpenTelemetry's SDK: names, attributes, units, one scrape each time."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from opentelemetry.sdk.metrics.export import Metric as Told
from prometheus_client.core import Metric as Family

from famulus.errors import ConfigError
from famulus.observability import metric_definitions as c
from famulus.observability.metrics import Distribution
from famulus.observability.otel_metrics import Meters, instruments
from famulus.web import otel_export as metering
from famulus.web.api.metrics import Scrape
from famulus.web.otel_export import on_loop, start_metering


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    """Return a reader of the metrics of this test, with its own provider."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", MeterProvider([reader]))
    return reader


def metrics_of(reader: InMemoryMetricReader) -> dict[str, Told]:
    """Return the metrics of a collection by name; all must have the scope `famulus`."""
    data = reader.get_metrics_data()
    assert data is not None
    [resource] = data.resource_metrics
    [scope] = resource.scope_metrics
    assert (scope.scope.name, scope.schema_url) == (
        "famulus",
        "https://opentelemetry.io/schemas/1.44.0",
    )
    return {of.name: of for of in scope.metrics}


def points(of: Told) -> list[tuple[float, dict[str, Any]]]:
    """Return the values of a metric with their attributes."""
    return [(point.value, dict(point.attributes or {})) for point in of.data.data_points]  # type: ignore[union-attr]


def full() -> Scrape:
    """Return a scrape with a series of every metric."""
    scrape, taken = Scrape(), Distribution((1.0, 2.0))
    for value in (0.5, 1.5, 4.0):
        taken.note(value)
    for number, metric in enumerate(c.CATALOGUE):
        labels = [f"a-{label}" for label in metric.labels]
        if metric.kind == "histogram":
            scrape.put_distribution(metric, taken, *labels)
        elif metric.kind == "summary":
            scrape.put_total(metric, taken, 1000, *labels)
        else:
            scrape.put(metric, number, *labels)
    return scrape


def test_the_whole_catalogue_is_told_but_aliases(reader: InMemoryMetricReader) -> None:
    """Names are those of the semantic conventions where these have one."""
    looks = 0

    def look() -> Iterable[Family]:
        nonlocal looks
        looks += 1
        return full().families.values()

    Meters(look)
    found = metrics_of(reader)
    assert looks == 1
    every = {of.name: of for of in instruments()}
    assert found.keys() == every.keys()
    for name, metric in found.items():
        assert (metric.unit, metric.description) == (every[name].unit, every[name].metric.question)
        assert (isinstance(metric.data, Sum) and metric.data.is_monotonic) == every[name].is_counter
        for _, attributes in points(metric):
            assert len(attributes) == len(every[name].metric.labels), name
    assert points(found["messaging.client.consumed.messages"]) == [
        (
            c.CATALOGUE.index(c.RECEIVED),
            {
                "messaging.system": "a-messaging_system",
                "messaging.operation.name": "a-messaging_operation_name",
                "messaging.consumer.group.name": "a-messaging_consumer_group_name",
                "messaging.destination.name": "a-messaging_destination_name",
            },
        )
    ]
    lag = {"group": "a-consumergroup", "topic": "a-topic", "partition": "a-partition"}
    assert points(found["kafka.consumer_group.lag"]) == [(c.CATALOGUE.index(c.LAG), lag)]
    place = {
        "messaging.destination.name": "a-topic",
        "messaging.destination.partition.id": "a-partition",
    }
    assert points(found["famulus.in_flight_records"])[0][1] == place
    assert points(found["famulus.dead_letters"])[0][1] == {
        "messaging.destination.name": "a-topic",
        "famulus.kind": "a-kind",
        "famulus.handler": "a-handler",
        "error.type": "a-error_type",
    }
    assert points(found["famulus.process.duration.count"])[0][0] == 3
    assert points(found["famulus.process.duration.sum"])[0][0] == 6.0
    assert found["famulus.process.duration.sum"].unit == "s"
    metrics_of(reader)
    assert looks == 2


async def test_other_threads_look_in_that_of_the_loop() -> None:
    """Exporters run in other threads, and do not wait for a loop that has ended."""
    seen: list[int] = []
    families = list(full().families.values())

    def look() -> Iterable[Family]:
        seen.append(threading.get_ident())
        return families

    read = on_loop(asyncio.get_running_loop(), look)
    assert list(read()) == list(await asyncio.to_thread(read)) == families
    assert set(seen) == {threading.get_ident()}
    ended = asyncio.new_event_loop()
    ended.close()
    assert list(await asyncio.to_thread(on_loop(ended, look))) == []


async def test_a_busy_loop_holds_no_exporter_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter gives up after READ_S; the next collection may find more."""
    monkeypatch.setattr(metering, "READ_S", 0.05)
    read = on_loop(asyncio.get_running_loop(), full().families.values)
    found: list[list[Family]] = []
    thread = threading.Thread(target=lambda: found.append(list(read())))
    thread.start()
    time.sleep(0.2)  # the loop is busy
    thread.join()
    assert found == [[]]
    await asyncio.sleep(0)


def host(mode: str) -> Any:
    """Return an app with the setting *mode*."""
    return SimpleNamespace(settings=SimpleNamespace(worker=SimpleNamespace(otel_metrics=mode)))


async def test_nothing_is_exported_unless_somebody_set_a_provider(
    reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting `on` raises an error that names the missing part."""
    start_metering(host("off"))
    assert reader.get_metrics_data() is None
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", None)
    start_metering(host("auto"))
    with pytest.raises(ConfigError, match="no meter provider is set"):
        start_metering(host("on"))
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", metrics.NoOpMeterProvider())
    with pytest.raises(ConfigError, match="no meter provider is set"):
        start_metering(host("on"))
    monkeypatch.delitem(sys.modules, "famulus.observability.otel_metrics", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.metrics", raising=False)
    with pytest.raises(ConfigError, match="install the extra `otel`"):
        start_metering(host("on"))
