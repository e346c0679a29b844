"""A worker whose agents set a meter provider: what OpenTelemetry's SDK exports is what `/metrics` says."""

import json
from typing import Any

from famulus.observability import metric_definitions as c
from famulus.observability.otel_metrics import instruments
from tests.integration.test_metrics import families, series, value
from tests.support.on_kafka.house import COUNTING, House, wait_for

PROVIDER = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

exported = open("exported.jsonl", "a", buffering=1)
exporter = ConsoleMetricExporter(exported, lambda data: data.to_json(indent=None) + "\\n")
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter, export_interval_millis=200)]))
"""
EVENTS = 300


def exported(house: House) -> dict[str, list[Any]]:
    """The points of each of our metrics in the last export."""
    lines = (house.checkout / "exported.jsonl").read_text("utf-8").splitlines()
    scopes = [
        scope for of in json.loads(lines[-1])["resource_metrics"] for scope in of["scope_metrics"]
    ]
    [ours] = [scope for scope in scopes if scope["scope"]["name"] == "famulus"]
    return {metric["name"]: metric["data"]["data_points"] for metric in ours["metrics"]}


def test_the_same_numbers_are_exported(house: House) -> None:
    """From the exporter's own thread, while events are handled; off is off."""
    house.build(COUNTING, partitions=2)
    (house.checkout / "agents/a_provider.py").write_text(PROVIDER)
    worker = house.start()
    house.send(*(house.thing(f"k{n % 7}", n) for n in range(EVENTS)))
    house.wait_settled(EVENTS, worker)

    def handled() -> int:
        points = exported(house)["famulus.records"]
        return sum(
            point["value"]
            for point in points
            if point["attributes"]["famulus.outcome"] == "handled"
        )

    wait_for(lambda: handled() == EVENTS)
    wait_for(lambda: "kafka.consumer_group.lag" in exported(house))
    found, scraped = exported(house), series(families(worker))
    assert found.keys() <= {of.name for of in instruments()}
    [received] = found["messaging.client.consumed.messages"]
    assert received["value"] == value(scraped, c.RECEIVED) == EVENTS
    assert received["attributes"] == {
        "messaging.system": "kafka",
        "messaging.operation.name": "poll",
        "messaging.consumer.group.name": house.group,
        "messaging.destination.name": house.topic,
    }
    lags = {
        point["attributes"]["partition"]: point["value"]
        for point in found["kafka.consumer_group.lag"]
        if point["attributes"]["topic"] == house.topic
    }
    assert lags == {"0": 0, "1": 0}
    assert found["famulus.process.duration.count"][0]["value"] == value(
        scraped, c.PROCESSING, "_count"
    )
    assert found["famulus.ready"][0]["value"] == 1
    assert "were not exported" not in worker.log.read_text("utf-8", "replace")
    assert worker.stop() == 0
    (house.checkout / "exported.jsonl").unlink()
    worker = house.start(WORKER__OTELMETRICS="off")
    assert worker.stop() == 0
    assert "famulus" not in (house.checkout / "exported.jsonl").read_text("utf-8")
