"""The workloads: what a round of each is, and which figures of it are kept.

A new one is a function here, which measures one system once, and, where the handler is to do
something new, a script `systems/SYSTEM_JOB.py` for each system.
"""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import uuid4

from bench import load
from bench.crowd import crowded
from bench.produce import produced
from bench.system import Result, System
from famulus.config import KafkaConfig
from famulus.kafka.admin import create_topics

SYSTEMS = ("famulus", "quix", "faststream", "aiokafka", "faust")
WAIT_S = 0.005  # what the handler of the workload `wait` waits
PUBLISHED = 3  # events for each order, by the handler of the workload `publish`
JOIN_S = 8  # for joining the group
IDLE_S = 15
MILLION = 1_000_000


class Bench:
    """What all rounds share: the cluster, how much of everything, topics that are filled, systems that keep state."""

    def __init__(self, kafka: KafkaConfig, events: int, marks: int) -> None:
        self.kafka, self.events, self.marks = kafka, events, marks
        self._topics: set[str] = set()
        self._kept: dict[str, System] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def topic(self, kind: load.Kind, count: int) -> str:
        """A topic with *count* records of a kind; it is filled when it is asked for first."""
        name = f"{kind.__name__}-{count}"
        if name not in self._topics:
            asyncio.run(load.fill(self.kafka, name, kind, count))
            self._topics.add(name)
        return name

    def make(self, name: str) -> None:
        """Have a topic that systems write to, unless it is there."""
        asyncio.run(create_topics(self.kafka, {name: self.kafka.partitions}, 10))

    def system(self, name: str, job: str, topic: str) -> System:
        """A system with a group and a state folder of its own."""
        return System(name, job, self.kafka, topic)

    def with_rows(self, name: str) -> tuple[System, int]:
        """A stopped system with table rows, each of an event of its own, and their number.

        It is made once.
        """
        rows = self.events * 10 // 3
        if name == "faust":
            rows //= 20
        if name not in self._kept:
            topic = f"distinct-{uuid4().hex[:8]}"
            asyncio.run(load.fill(self.kafka, topic, load.distinct, rows))
            system = self._kept[name] = self._stack.enter_context(self.system(name, "rows", topic))
            system.start(rows)
            system.result(limit_s(rows))
            system.settle()
            system.stop()
        return self._kept[name], rows


@dataclass(frozen=True)
class Workload:
    """*systems* can do it, *metrics* are the figures that are kept, with their units."""

    measure: Callable[[Bench, str], Result]
    systems: tuple[str, ...]
    metrics: Mapping[str, str]


def limit_s(events: int) -> float:
    """How long a round may take."""
    return 300 + events / 2_000


def no_op(bench: Bench, name: str) -> Result:
    """Read, decode and validate as the system does, do nothing. Slow systems read a tenth."""
    events = bench.events // 10 if name in {"faust", "faststream"} else bench.events
    with bench.system(name, "noop", bench.topic(load.plain, bench.events)) as system:
        system.start(events)
        return system.result(limit_s(events))


def with_state(bench: Bench, name: str) -> Result:
    """Each order once, and a row of a table for it, from an empty state.

    Stock Faust has a tenth.
    """
    count = bench.events // 10 if name == "faust" else bench.events
    with bench.system(name, "counts", bench.topic(load.identified, count)) as system:
        system.start(load.unique(count))
        result = system.result(limit_s(count))
        system.check_effects(load.unique(count))
        return result


def waiting(bench: Bench, name: str) -> Result:
    """A handler that waits for something else."""
    events = 50_000
    with bench.system(name, "noop", bench.topic(load.plain, events)) as system:
        system.start(events, BENCH_WAIT_S=str(WAIT_S), BENCH_WARM="2000")
        return system.result(limit_s(events))


def start(bench: Bench, name: str) -> Result:
    """From the start of the process to the first handler, without state."""
    with bench.system(name, "noop", bench.topic(load.plain, 1_000)) as system:
        system.start(1_000)
        return system.result(limit_s(0))


def idle(bench: Bench, name: str) -> Result:
    """What a worker takes that has nothing to do."""
    with bench.system(name, "noop", bench.topic(load.plain, 1_000)) as system:
        system.start(1_000)
        time.sleep(JOIN_S)
        before_s = _used_s(system.pid)
        time.sleep(IDLE_S)
        return {"cpu_share": (_used_s(system.pid) - before_s) / IDLE_S}


def latency(bench: Bench, name: str) -> Result:
    """A thousand orders a second, on schedule: from the order's time to its handler."""
    return _latency(bench, name, 12 * load.RATE, "")


def _latency(bench: Bench, name: str, handled: int, failure_policy: str) -> Result:
    """The same, with a customer whose orders fail; so many of all are *handled*."""
    events, topic = 12 * load.RATE, f"latency-{uuid4().hex[:8]}"
    asyncio.run(load.fill(bench.kafka, topic, load.plain, 0))
    with bench.system(name, "noop", topic) as system:
        system.start(
            handled, BENCH_WARM=str(2 * load.RATE), BENCH_LATENCY="1", BENCH_FAILING=failure_policy
        )
        time.sleep(JOIN_S)
        asyncio.run(load.drip(bench.kafka, topic, events))
        return system.result(limit_s(events))


def backoff(bench: Bench, name: str) -> Result:
    """The latency of all others while one key waits for a minute for its next attempt, and without that."""
    others = 12 * load.RATE - 12 * load.RATE // len(load.KEYS)
    without, waits = (
        _latency(bench, name, events, failure_policy)
        for events, failure_policy in ((12 * load.RATE, ""), (others, load.KEYS[0]))
    )
    return {
        "latency_p99_ms": without["latency_p99_ms"],
        "latency_p99_ms_beside": waits["latency_p99_ms"],
        "ratio": waits["latency_p99_ms"] / without["latency_p99_ms"],
    }


def flat(bench: Bench, name: str) -> Result:
    """A run of 33 times as many events, 10 million if not said otherwise: pace and memory stay what they were."""
    early, events = bench.events, bench.events * 100 // 3
    with bench.system(name, "noop", bench.topic(load.plain, events)) as system:
        system.start(events, BENCH_POINTS=f"{early},{events}")
        result = system.result(limit_s(events))
        return {
            **result,
            "rss_growth_mb": result[f"rss_mb_at_{events}"] - result[f"rss_mb_at_{early}"],
        }


def recovery(bench: Bench, name: str) -> Result:
    """Table rows from the changelog into an empty state folder: a million, of stock Faust 50,000."""
    system, rows = bench.with_rows(name)
    shutil.rmtree(system.state)
    system.start(rows, log_level="info")
    found = system.restored(rows, limit_s(rows))
    system.stop()
    return {"rows_per_second": (found.rows or rows) / found.seconds, "seconds": found.seconds}


def restart(bench: Bench, name: str) -> Result:
    """From the start of the process to the first handler, with the state of `recovery` in its folder."""
    system, _ = bench.with_rows(name)
    asyncio.run(load.fill(bench.kafka, system.topic, load.distinct, 1_000))
    system.start(1_000)
    result = system.result(limit_s(0))
    system.settle()
    system.stop()
    return result


def marks(bench: Bench, name: str) -> Result:
    """Many millions of events, each id remembered: the pace at the first million and at the end, the memory."""
    early = MILLION // 10
    with bench.system(name, "marks", bench.topic(load.small, bench.marks)) as system:
        system.start(bench.marks, BENCH_POINTS=f"{early},{MILLION},{bench.marks}")
        result = system.result(limit_s(bench.marks))
    grown_mb = result[f"rss_mb_at_{bench.marks}"] - result[f"rss_mb_at_{early}"]
    return {
        "events_per_second_at_a_million": result[f"events_per_second_at_{MILLION}"],
        "events_per_second_at_the_end": result[f"events_per_second_at_{bench.marks}"],
        "rss_mb_per_million": grown_mb / (bench.marks - early) * MILLION,
        "millions": bench.marks / MILLION,
    }


def produce(bench: Bench, name: str) -> Result:
    """Orders that are sent to a new topic, a third as many as others read."""
    return asyncio.run(produced(bench.kafka, name, bench.events // 3))


def crowd(bench: Bench, name: str) -> Result:
    """Many calls at once that each publish an event of one of fifty keys, and wait until the cluster has it."""
    return crowded(bench.kafka, name)


def publish(bench: Bench, name: str) -> Result:
    """Handlers that make events and publish them, or do not: the difference is what publishing costs."""
    events = bench.events // 3
    bench.make("noted-orders")
    without, those = (_publishing(bench, name, events, published) for published in (0, PUBLISHED))
    # Microseconds per order, too.
    more_s = those["cpu_seconds_per_million"] - without["cpu_seconds_per_million"]
    return {
        "publish_cpu_us": more_s / PUBLISHED,
        "published_per_second": those["events_per_second"] * PUBLISHED,
    }


def _publishing(bench: Bench, name: str, events: int, published: int) -> Result:
    with bench.system(name, "publish", bench.topic(load.plain, bench.events)) as system:
        system.start(
            events,
            BENCH_MADE=str(PUBLISHED),
            BENCH_PUBLISH=str(published),
            BENCH_PUBLISHED="noted-orders",
            BENCH_WARM="2000",
        )
        return system.result(limit_s(events))


def _used_s(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


PACE = {
    "events_per_second": "events/s",
    "cpu_seconds_per_million": "CPU s per million",
    "rss_mb": "MB",
}
WORKLOADS = {
    "W0": Workload(no_op, SYSTEMS, PACE),
    "W1": Workload(with_state, ("famulus", "quix", "faust"), PACE),
    "wait": Workload(waiting, ("famulus",), {"events_per_second": "events/s"}),
    "latency": Workload(
        latency, SYSTEMS, {"latency_p50_ms": "ms", "latency_p99_ms": "ms", "cpu_share": "of a core"}
    ),
    "backoff": Workload(
        backoff,
        ("famulus",),
        {
            "latency_p99_ms": "ms",
            "latency_p99_ms_beside": "ms, beside a key that waits",
            "ratio": "times as long",
        },
    ),
    "start": Workload(start, SYSTEMS, {"first_handler_s": "s"}),
    "idle": Workload(idle, SYSTEMS, {"cpu_share": "of a core"}),
    "flat": Workload(
        flat,
        ("famulus",),
        {
            "events_per_second": "events/s",
            "last_to_first": "pace at the end : at the start",
            "rss_mb": "MB",
            "rss_growth_mb": "MB",
        },
    ),
    "recovery": Workload(
        recovery, ("famulus", "quix", "faust"), {"rows_per_second": "rows/s", "seconds": "s"}
    ),
    "restart": Workload(restart, ("famulus", "quix", "faust"), {"first_handler_s": "s"}),
    "produce": Workload(
        produce,
        ("famulus", "aiokafka"),
        {"events_per_second": "events/s", "cpu_seconds_per_million": "CPU s per million"},
    ),
    "crowd": Workload(
        crowd,
        ("famulus", "aiokafka", "faststream"),
        {
            "events_per_second_at_1000": "events/s, 1,000 at once",
            "events_per_second_at_10000": "events/s, 10,000 at once",
            "events_per_second_at_100000": "events/s, 100,000 at once",
            "cpu_seconds_per_million_at_10000": "CPU s per million",
            "growth": "time a call with 100,000 at once : with 10,000",
            "failed_at_100000": "calls that failed, of 100,000",
            "out_of_order": "records out of order",
        },
    ),
    "publish": Workload(
        publish,
        ("famulus", "aiokafka"),
        {"publish_cpu_us": "CPU us per published event", "published_per_second": "events/s"},
    ),
    "marks": Workload(
        marks,
        ("famulus",),
        {
            "events_per_second_at_a_million": "events/s",
            "events_per_second_at_the_end": "events/s",
            "rss_mb_per_million": "MB per million",
            "millions": "million marks at the end",
        },
    ),
}
