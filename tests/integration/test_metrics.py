"""`/metrics` of a live worker: another parser reads it, its numbers are what happened, its labels are bounded."""

import time
import urllib.request
from collections.abc import Iterable

from prometheus_client import openmetrics, parser
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parsed_openmetrics,
)

from famulus.dev.worker import WorkerProcess
from famulus.observability import metric_definitions as c
from famulus.observability.metrics import PROCESSING_S
from tests.support.on_kafka.house import House, wait_for

HANDLER = """
from app import PermanentError, TransientError


@handles(Thing, retry=Retry(3, 0.1))
async def note(thing: Thing, delivery: Delivery) -> None:
    if thing.note == "bad":
        raise PermanentError("no")
    if thing.note == "later" and delivery.attempt == 1:
        raise TransientError("no")
    while thing.note == "wait" and not Path("go").exists():
        await asyncio.sleep(0.05)
    count[thing.key] += 1
"""
KEYS = 10_000
LATER = """
from app import TransientError


@handles(Thing, retry=Retry(1), retry_topics=["2s"])
async def note(thing: Thing, delivery: Delivery) -> None:
    if delivery.attempt == 1:
        raise TransientError("no")
"""
HALTING = ', on_dead_letter="halt"'
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(worker: WorkerProcess, accept: str = "text/plain") -> tuple[str, str]:
    """Content type and text of `/metrics`."""
    request = worker.request("/metrics")
    request.add_header("Accept", accept)
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.headers["Content-Type"], response.read().decode()


def families(worker: WorkerProcess) -> list[Family]:
    """What the parser of prometheus-client makes of it."""
    return list(parser.text_string_to_metric_families(scraped(worker)[1]))


def series(of: Iterable[Family]) -> Series:
    """Each series by its name and labels."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value for family in of for s in family.samples
    }


def value(found: Series, metric: c.Metric, suffix: str = "", **labels: str) -> float:
    """The sum of the series of *metric* with these *labels*, at least one."""
    wanted = set(labels.items())
    matching = [
        v for (name, of), v in found.items() if name == metric.name + suffix and wanted <= set(of)
    ]
    assert matching, (metric.name, labels)
    return sum(matching)


def test_the_numbers_are_what_happened(house: House) -> None:
    """Over 10,000 keys, a duplicate, a dead letter, a retry, and types that nobody handles: each counted once."""
    house.build(HANDLER, partitions=2)
    worker = house.start()
    before = len(series(families(worker)))
    house.send(
        *(house.thing(f"k{number}", number) for number in range(KEYS)),
        house.thing("k1", 1),
        house.thing("x", 1, "bad"),
        house.thing("y", 1, "later"),
        house.thing("z", 1, kind="things.Other"),
    )
    house.wait_settled(KEYS + 4, worker)
    wait_for(lambda: value(series(families(worker)), c.COMMIT_GAP) == 0)
    found = series(read := families(worker))
    names = {metric.name for metric in c.CATALOGUE}
    assert {f"{of.name}_total" if of.type == "counter" else of.name for of in read} == names
    assert {metric.name: metric.kind for metric in c.CATALOGUE} == {
        f"{of.name}_total" if of.type == "counter" else of.name: of.type for of in read
    }
    outcomes = {
        name: value(found, c.OUTCOMES, topic=house.topic, outcome=name)
        for name in ("handled", "duplicate", "dead_lettered", "ignored")
    }
    assert outcomes == {"handled": KEYS + 1, "duplicate": 1, "dead_lettered": 1, "ignored": 1}
    assert value(found, c.RECEIVED, messaging_destination_name=house.topic) == KEYS + 4
    assert value(found, c.RETRIES) == 1
    assert (
        value(
            found,
            c.DEAD_LETTERS,
            kind="permanent",
            error_type="PermanentError",
            handler="agents.things.note",
        )
        == 1
    )
    assert value(found, c.SENT, messaging_destination_name=f"{house.topic}.dead-letter") == 1
    assert value(found, c.OWNED, topic=house.topic) == 2
    assert value(found, c.GROUP_RECORDS, "_sum") == KEYS + 4
    assert value(found, c.GROUP_RECORDS, "_count") == value(found, c.SETTLING, "_count") > 0
    timed = value(found, c.PROCESSING, "_count")
    assert timed == KEYS + 5  # one of them twice
    assert value(found, c.TYPE_PROCESSING, "_count") == timed
    assert {
        dict(of)["type"] for name, of in found if name == c.TYPE_PROCESSING.name + "_count"
    } <= {"things.Thing", c.OTHER}
    assert value(found, c.IN_RECORDS) == KEYS + 4
    assert value(found, c.PROCESSING_ALIAS, "_count") == timed
    seconds = value(found, c.PROCESSING, "_sum")
    assert abs(value(found, c.PROCESSING_ALIAS, "_sum") - 1000 * seconds) < 1e-6 * seconds * 1000
    for quiet in (
        c.LAG,
        c.LAG_ALIAS,
        c.LAG_S,
        c.ETA,
        c.IN_FLIGHT,
        c.OLDEST,
        c.BACKLOG,
        c.RESTING,
        c.BLOCKED,
        c.BREAKER_OPEN,
        c.FLOOD,
    ):
        assert value(found, quiet) == 0, quiet.name
    assert value(found, c.READY) == 1
    assert value(found, c.STATE, state="ok") == value(found, c.STATE) == 2
    types = 2 * (len(PROCESSING_S) + 3)  # one that is handled, and all others
    # A dead letter, where it was sent, lag and states that were not known at first.
    assert len(found) <= before + 29 + types
    for metric in c.CATALOGUE:
        for _, labels in (of for of in found if of[0].startswith(metric.name)):
            assert {name for name, _ in labels} - {"le"} <= {*metric.labels}
    content_type, text = scraped(worker, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith(openmetrics.exposition.CONTENT_TYPE_LATEST.split(";")[0])
    # Theirs has no types.
    again: Iterable[Family] = parsed_openmetrics(text)  # type: ignore[no-untyped-call]
    assert {of.name for of in again} == {of.name for of in read}
    assert worker.stop() == 0


def test_what_waits_and_what_is_blocked_is_seen(house: House) -> None:
    """A slow event holds the lag and grows older; a partition that has halted says so."""
    house.build(HANDLER, options=HALTING, partitions=2)
    worker = house.start()
    house.send(
        house.thing("a", 1, "wait", partition=0),
        *(house.thing("a", n, partition=0) for n in range(2, 7)),
    )
    wait_for(lambda: value(series(families(worker)), c.OLDEST, partition="0") > 0.5)
    age_s = value(series(families(worker)), c.LAG_S, partition="0")
    assert 0.5 < age_s < 30
    time.sleep(0.5)
    found = series(families(worker))
    assert value(found, c.LAG_S, partition="0") >= age_s + 0.5
    assert not [
        labels for name, labels in found if name == c.ETA.name and ("partition", "0") in labels
    ]
    for metric, expected in ((c.LAG_S, 0), (c.ETA, 0)):
        assert value(found, metric, partition="1") == expected
    for metric, expected in (
        (c.LAG, 6),
        (c.LAG_ALIAS, 6),
        (c.IN_FLIGHT, 6),
        (c.IN_HAND, 1),
        (c.BACKLOG, 5),
    ):
        assert value(found, metric, topic=house.topic, partition="0") == expected, metric.name
        assert value(found, metric, partition="1") == 0, metric.name
    house.send(house.thing("b", 1, "bad", partition=1))
    wait_for(lambda: value(series(families(worker)), c.BLOCKED, reason="halted") == 1)
    assert value(found := series(families(worker)), c.READY) == 0
    assert value(found, c.LAG, partition="1") == 1
    (house.checkout / "go").touch()
    wait_for(lambda: value(series(families(worker)), c.LAG, partition="0") == 0)
    assert worker.stop() == 0


def test_what_waits_in_a_retry_topic_is_lag_there(house: House) -> None:
    """Until it is due and handled."""
    house.build(LATER)
    worker = house.start()
    house.send(house.thing("a", 1), house.thing("b", 1))
    later = f"{house.topic}.{house.group}.retry-1"
    wait_for(lambda: value(series(families(worker)), c.POSTPONED) == 2)
    wait_for(lambda: value(series(families(worker)), c.LAG, topic=later) == 2)
    assert value(series(families(worker)), c.LAG, topic=house.topic) == 0
    wait_for(
        lambda: (
            value(series(families(worker)), c.OUTCOMES, topic=house.topic, outcome="handled") == 4
        )
    )
    wait_for(lambda: value(series(families(worker)), c.LAG) == 0)
    assert worker.stop() == 0
