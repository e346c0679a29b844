"""`make bench`: this worker beside stock Faust, Quix Streams and a bare aiokafka loop, on one topic, in turns.

Only ratios within one run mean anything: rounds are interleaved, and minimum, median and maximum are shown.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import click
import orjson
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.table import Table

from app.config import KafkaConfig
from app.dev.broker import Broker
from app.dev.node import free_port
from app.observe.health import create_topics
from app.publish.producer import Producer
from app.wire.envelope import Outgoing

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SYSTEMS = ("famulus", "quix", "aiokafka", "faust")
KEYS = [str(UUID(int=number)) for number in range(1_000)]
RATE = 1_000  # events per second of the latency workload
WAIT_S = 0.005  # what the handler of the workload `wait` waits
IDLE_S = 15
ALONE = ("wait", "flat")  # workloads of this worker alone
console = Console()
Result = dict[str, float]


def order(number: int) -> Outgoing:
    """An order of two lines, 321 bytes as JSON, created now."""
    key = KEYS[number % len(KEYS)]
    line = {"product_id": f"product-{number % 500:05}", "quantity": 3, "price": 19.99}
    event = {"order_id": str(UUID(int=number)), "customer_id": key, "total_amount": 119.94,
             "created_at": datetime.now(UTC).isoformat(), "items": [line, line]}  # fmt: skip
    return Outgoing("", key.encode(), orjson.dumps(event))


async def fill(kafka: KafkaConfig, topic: str, count: int) -> None:
    """Write *count* orders to *topic*, as fast as it goes."""
    await create_topics(kafka, {topic: kafka.partitions, f"{topic}.dead-letter": kafka.partitions}, 10)
    async with Producer(kafka) as producer:
        for first in range(0, count, 5_000):
            orders = (order(number) for number in range(first, min(first + 5_000, count)))
            await producer.send_all([replace(record, topic=topic) for record in orders])


async def drip(kafka: KafkaConfig, topic: str, count: int) -> None:
    """Write *count* orders at a steady rate, on schedule however long a send takes."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, linger_ms=0) as producer:
        began, pending = time.perf_counter(), []
        for number in range(count):
            if (early_s := began + number / RATE - time.perf_counter()) > 0:
                await asyncio.sleep(early_s)
            record = order(number)
            pending.append(await producer.send(topic, record.value, key=record.key))
        await asyncio.gather(*pending)


class System:
    """One measured process."""

    def __init__(self, name: str, kafka: KafkaConfig, topic: str, folder: Path, settings: dict[str, str]) -> None:
        self.log = folder / "log"
        environment = {
            **os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "BENCH_TOPIC": topic,
            "BENCH_GROUP": f"bench-{uuid4().hex[:8]}", "BENCH_DIR": str(folder / "state"), **settings,
            "PYTHONPATH": f"{folder}:{ROOT}" if name == "famulus" else str(ROOT), "PYTHONUNBUFFERED": "1",
            "BENCH_BEGAN": str(time.time()),
        }  # fmt: skip
        command = [sys.executable]
        match name:
            case "famulus":
                for package in ("app", "models"):
                    shutil.copytree(ROOT / package, folder / package)
                (folder / "agents").mkdir()
                (folder / "agents/__init__.py").touch()
                source = (HERE / "systems/famulus_agents.py").read_text()
                (folder / "agents/orders.py").write_text(source.replace('"order-events"', f'"{topic}"'))
                source = (HERE / "systems/famulus_models.py").read_text()
                (folder / "models/orders.py").write_text(source.replace('"order-events"', f'"{topic}"'))
                (folder / "models/stock.py").unlink()
                command += ["-m", "faust", "-A", "app", "worker", "-l", "warn", "--web-port", str(free_port())]
                environment |= {"WORKER__DATADIR": str(folder / "state"),
                                "KAFKA__CONSUMERCONFIG__GROUPID": environment["BENCH_GROUP"]}  # fmt: skip
            case "faust":
                command += ["-m", "faust", "-A", "bench.systems.faust_stock", "worker", "-l", "warn", "--without-web"]
            case "aiokafka":
                command += [str(HERE / "systems/aiokafka_loop.py")]
            case _:
                command = [str(Path(os.environ["BENCH_QUIX_PYTHON"]).absolute()), str(HERE / "systems/quix.py")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own scripts
                command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    def result(self, timeout_s: float) -> Result:
        """Wait for the line of its meter, and end it. Raises click.ClickException when there is none."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None and b"BENCH {" not in self.log.read_bytes():
            time.sleep(0.1)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        text = self.log.read_text("utf-8", "replace")
        line = next((line for line in text.splitlines() if line.startswith("BENCH ")), None)
        if line is None:
            raise click.ClickException(f"no result within {timeout_s:g} s:\n{text[-2000:]}")
        found: Result = json.loads(line.removeprefix("BENCH "))
        return found


def measure(workload: str, system: str, kafka: KafkaConfig, topic: str, events: int) -> Result:
    """One round of one system."""
    folder = Path(tempfile.mkdtemp(prefix="famulus-bench-"))
    try:
        settings = {"BENCH_EVENTS": str(events)}
        if workload == "wait":
            settings |= {"BENCH_WAIT_S": str(WAIT_S), "BENCH_WARM": "2000"}
        if workload == "latency":
            topic = f"latency-{uuid4().hex[:8]}"
            asyncio.run(fill(kafka, topic, 0))
            settings |= {"BENCH_WARM": str(2 * RATE), "BENCH_LATENCY": "1"}
        process = System(system, kafka, topic, folder, settings)
        if workload == "idle":
            return idle_share(process)
        if workload == "latency":
            time.sleep(6)  # for joining the group
            asyncio.run(drip(kafka, topic, events))
        return process.result(600)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def idle_share(process: System) -> Result:
    """The share of a core that a worker takes that has nothing to do."""
    pid, ticks = process.process.pid, os.sysconf("SC_CLK_TCK")

    def used_s() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    time.sleep(8)  # for joining the group
    before_s = used_s()
    time.sleep(IDLE_S)
    share = (used_s() - before_s) / IDLE_S
    process.process.terminate()
    process.process.wait(30)
    return {"cpu_share": share}


METRICS = {
    "W0": {"events_per_second": "events/s", "cpu_seconds_per_million": "CPU s per million", "rss_mb": "MB"},
    "wait": {"events_per_second": "events/s"},
    "start": {"first_handler_s": "s"},
    "idle": {"cpu_share": "of a core"},
    "flat": {"events_per_second": "events/s", "last_to_first": "pace at the end : at the start", "rss_mb": "MB"},
    "latency": {"latency_p50_ms": "ms", "latency_p99_ms": "ms", "cpu_share": "of a core"},
}


@click.command()
@click.option("--workloads", default="W0,wait,latency", help="W0 (no-op), wait (5 ms), latency, start, idle, flat.")
@click.option("--systems", default=",".join(SYSTEMS))
@click.option("--rounds", type=click.IntRange(1), default=3)
@click.option(
    "--events", type=click.IntRange(1_000), default=300_000, help="Of a no-op round; stock Faust has a tenth."
)
@click.option("--partitions", type=click.IntRange(1), default=4)
def main(workloads: str, systems: str, rounds: int, events: int, partitions: int) -> None:
    """Measure, show the ratios, write bench/results.json."""
    rows: list[dict[str, Any]] = []
    with Broker(heap_mb=1024) as broker:
        kafka = KafkaConfig(bootstrap_servers=broker.bootstrap_servers, partitions=partitions)
        for workload in workloads.split(","):
            names = ["famulus"] if workload in ALONE else systems.split(",")
            count = {"W0": events, "wait": 50_000, "latency": 12 * RATE, "flat": 10_000_000}.get(workload, 1_000)
            topic = f"orders-{workload.lower()}"
            if workload != "latency":
                with console.status(f"writing {count:,} orders"):
                    asyncio.run(fill(kafka, topic, count))
            found: dict[str, list[Result]] = {name: [] for name in names}
            for number in range(rounds):
                for name in names:
                    with console.status(f"{workload}: {name}, round {number + 1} of {rounds}"):
                        mine = count // 10 if name == "faust" and workload == "W0" else count
                        found[name].append(measure(workload, name, kafka, topic, mine))
            for metric, unit in METRICS[workload].items():
                rows += show(workload, metric, unit, found)
    (HERE / "results.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def show(workload: str, metric: str, unit: str, found: dict[str, list[Result]]) -> list[dict[str, Any]]:
    """Print one metric's table, and return its rows."""
    table = Table(title=f"{workload}: {metric} ({unit})")
    for heading in ("system", "min", "median", "max", "famulus is"):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    rows = []
    ours = median(result[metric] for result in found["famulus"]) if "famulus" in found else None
    for name, results in found.items():
        values = [result[metric] for result in results]
        row: dict[str, Any] = {"workload": workload, "system": name, "metric": metric, "unit": unit,
               "min": min(values), "median": median(values), "max": max(values)}  # fmt: skip
        rows.append(row)
        numbers = [f"{row[key]:,.0f}" if row[key] >= 100 else f"{row[key]:.2f}" for key in ("min", "median", "max")]
        table.add_row(name, *numbers, f"{ours / row['median']:.2f} x" if ours is not None and row["median"] else "")
    console.print(table)
    return rows


if __name__ == "__main__":
    main()
