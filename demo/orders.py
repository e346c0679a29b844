"""`make run`: real orders through a real worker on a real Kafka, and the proof that every one of them counted once.

Starts a broker unless there is one, a `faust -A app worker` process, streams the sample through the
project's own producer with some orders sent twice and some records spoilt on purpose, waits until
all is settled, and compares what the worker's web views say with sums made from the sample's files
by another road.
"""

import asyncio
import itertools
import json
import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
from aiokafka import TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app import app
from demo import sample
from famulus.config import KafkaConfig
from famulus.deadletter.record import origin_of
from famulus.deadletter.topics import dead_letter_topic
from famulus.dev.background import broker_for_use
from famulus.dev.node import HOST, free_port
from famulus.dev.worker import WorkerProcess
from famulus.dev.workers import RunningWorkers
from famulus.errors import OperatingError
from famulus.kafka.admin import check_port, create_topics, delete_topics
from famulus.kafka.group_progress import GroupProgress
from famulus.kafka.log_reader import log_consumer, read_to
from famulus.producer.producer import Producer
from famulus.webserver.auth import READ_FILE

console = Console()
SEND_RECORDS = 1_000  # sent and awaited together
TIMEOUT_S = app.settings.worker.startup_timeout_s
STALLED_S = 60.0  # without progress for so long, something is broken
ORDER_EVENTS, STOCK_EVENTS = "order-events", "stock-events"


class DemoError(OperatingError):
    """The demo could not be run to its end."""


@dataclass(frozen=True)
class Summary:
    """What the last lines say, and `SUMMARY=file` keeps."""

    orders: int
    events: int
    duplicates: int
    dead_letters: int
    events_per_second: float
    reconciled: bool


@dataclass(frozen=True)
class Plan:
    """What this run does, and where.

    *kafka* has the run's own group, and a prefix on somebody else's broker.

    *is_ours* says that the cluster is for this run alone, so that nothing needs a prefix or has to
    be deleted.
    """

    scale: float
    duplicates: int
    poison: int
    folder: Path
    kafka: KafkaConfig
    is_ours: bool

    @property
    def topics(self) -> list[str]:
        """The two source topics, as on the cluster."""
        return [self.kafka.topic(ORDER_EVENTS), self.kafka.topic(STOCK_EVENTS)]

    def worker_settings(self) -> dict[str, str]:
        """The environment of this run's worker."""
        return {
            "KAFKA__BOOTSTRAPSERVERS": self.kafka.bootstrap_servers,
            "KAFKA__TOPICPREFIX": self.kafka.topic_prefix,
            "KAFKA__CONSUMERCONFIG__GROUPID": self.kafka.consumer_config.group_id,
            "WORKER__DATADIR": str(self.folder / "state"),
        }


@click.command()
@click.option(
    "--scale",
    type=click.FloatRange(0.0001, 100),
    default=0.01,
    help="TPC-H scale; 0.01 is 15,000 orders.",
)
@click.option(
    "--duplicates", type=click.IntRange(0), default=25, help="Orders that are sent twice."
)
@click.option(
    "--poison", type=click.IntRange(0), default=5, help="Records that no handler can read."
)
@click.option(
    "--sample",
    "sample_folder",
    type=click.Path(path_type=Path),
    help="Folder with the sample's CSV files.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the result there as JSON.",
)
@click.option(
    "--worker-port",
    "worker_ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    help="Use the workers whose web views are there, on a fresh cluster that is theirs; once "
    "for each.",
)
@click.option("--keep", is_flag=True, help="Stay up until Ctrl-C, to look around.")
def demo(  # one for each option
    *,
    scale: float,
    duplicates: int,
    poison: int,
    sample_folder: Path | None,
    summary: Path | None,
    worker_ports: tuple[int, ...],
    keep: bool,
) -> None:
    """Carry real orders through a real worker and prove that every one counted once."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends everything, as Ctrl-C does
    app.finalize()
    app.discover()
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="famulus-")))
        if sample_folder is not None:
            sample.check(sample_folder)
        broker = running.enter_context(broker_for_use())
        is_ours = broker.is_embedded or bool(worker_ports)
        kafka = _kafka(broker.bootstrap_servers, is_ours=is_ours)
        plan = Plan(scale, duplicates, poison, folder, kafka, is_ours)
        console.print(
            f"Kafka at {kafka.bootstrap_servers}{' (started here)' if broker.is_embedded else ''}"
        )
        _make_topics(plan, running)
        if sample_folder is None:
            sample_folder = folder
            with console.status(f"making TPC-H orders at scale {scale:g}"):
                sample.generate(scale, folder)
        worker: WorkerProcess | RunningWorkers
        if worker_ports:
            worker = RunningWorkers(worker_ports)
        else:
            worker = WorkerProcess(
                plan.worker_settings(), folder / "worker.log", web_port=_web_port(keep=keep)
            )
            running.enter_context(worker)
        with console.status("the worker starts"):
            worker.wait_ready(partitions=len(app.subscriptions) * plan.kafka.partitions)
        result, faults = asyncio.run(_carry(plan, sample_folder, worker))
        _tell(result, faults, summary)
        if keep and isinstance(worker, WorkerProcess):  # others stay anyway
            _stay(plan, worker)
    raise SystemExit(0 if result.reconciled else 1)


def _kafka(bootstrap_servers: str, *, is_ours: bool) -> KafkaConfig:
    """Settings of this run: on somebody's broker everything carries a prefix of its own, and goes at the end."""
    run = "" if is_ours else f"demo-{uuid4().hex[:8]}."
    base = app.settings.kafka
    group = base.consumer_config.model_copy(update={"group_id": f"{run}famulus"})
    return base.model_copy(
        update={
            "bootstrap_servers": bootstrap_servers,
            "topic_prefix": run,
            "consumer_config": group,
        }
    )


def _make_topics(plan: Plan, running: ExitStack) -> None:
    app.discover()  # a worker needs the topics of all agents, also of those that are not the demo's
    topics = [plan.kafka.topic(name) for name in app.subscriptions]
    names = [name for topic in topics for name in (topic, dead_letter_topic(topic))]
    asyncio.run(create_topics(plan.kafka, dict.fromkeys(names, plan.kafka.partitions), TIMEOUT_S))
    if not plan.is_ours:
        running.callback(
            lambda: asyncio.run(delete_topics(plan.kafka, plan.kafka.topic_prefix, TIMEOUT_S))
        )


async def _carry(
    plan: Plan, folder: Path, worker: WorkerProcess | RunningWorkers
) -> tuple[Summary, list[str]]:
    """Stream, wait, reconcile: the summary, and what differs."""
    with Progress(
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as bars:
        streamed = asyncio.Event()
        began = time.monotonic()
        settling = asyncio.create_task(_wait_settled(plan, worker, bars, streamed))
        try:
            sent, spoilt = await _stream(plan, folder, bars)
            streamed.set()
            events = await settling
        finally:
            settling.cancel()
        elapsed_s = time.monotonic() - began
    with console.status("comparing the tables with the sample's files"):
        counts = {s["topic"]: s for s in await asyncio.to_thread(worker.get, "/subscriptions/")}
        dead = await _dead_letters(plan)
        faults = [
            *_compare(
                "cents of customer", sample.expected_sums(folder)[0], _cents(worker.rows("spend"))
            ),
            *_compare(
                "pieces of product", sample.expected_sums(folder)[1], worker.rows("stock_reserved")
            ),
            *_compare("dead letter", spoilt, dead),
        ]
    duplicates = sum(subscription["duplicate"] for subscription in counts.values())
    if duplicates != plan.duplicates:
        faults.append(
            f"{plan.duplicates} orders were sent twice, {duplicates} duplicates were recognised"
        )
    result = Summary(sent, events, duplicates, len(dead), round(events / elapsed_s, 1), not faults)
    return result, faults


async def _stream(plan: Plan, folder: Path, bars: Progress) -> tuple[int, dict[str, str]]:
    """Send the orders, some twice, and the poison among them: how many orders, and the poison by its place."""
    bar = bars.add_task(
        "published",
        total=round(sample.ORDERS_PER_SCALE * plan.scale) + plan.duplicates + plan.poison,
    )
    orders, poison = 0, 0
    spoilt: dict[str, str] = {}
    event_type, topic = app.event_type("orders.OrderCreated"), plan.kafka.topic(ORDER_EVENTS)
    records = sample.records(
        folder, event_type, topic, duplicates=plan.duplicates, poison=plan.poison
    )
    async with Producer(plan.kafka) as producer:
        while chunk := list(itertools.islice(records, SEND_RECORDS)):
            places = await producer.send_all(chunk)
            for record, place in zip(chunk, places, strict=True):
                if record.headers:
                    orders += 1
                else:
                    poison += 1
                    spoilt[f"{place.topic}/{place.partition}/{place.offset}"] = (
                        f"{record.key!r} {record.value!r}"
                    )
            bars.advance(bar, len(chunk))
        bars.update(bar, total=orders + poison)
    return orders - plan.duplicates, spoilt


async def _wait_settled(
    plan: Plan, worker: WorkerProcess | RunningWorkers, bars: Progress, streamed: asyncio.Event
) -> int:
    """Wait until both topics are settled for good: how many events that were.

    Raises when the worker ends or stalls.
    """
    bar = bars.add_task("settled", total=None)
    moved = time.monotonic()
    seen = (-1, -1)
    async with GroupProgress(plan.kafka, plan.kafka.consumer_config.group_id) as monitor:
        while True:
            complete = streamed.is_set()
            topics = (await monitor.progress(plan.topics)).values()
            now = sum(topic.settled for topic in topics), sum(topic.total for topic in topics)
            bars.update(bar, completed=now[0], total=now[1])
            # Twice the same: settling orders makes new events.
            if complete and now == seen and now[0] == now[1]:
                return now[0]
            if now != seen:
                seen, moved = now, time.monotonic()
            elif time.monotonic() - moved > STALLED_S:
                raise DemoError(
                    f"nothing was settled for {STALLED_S:g} s; the worker says: "
                    f"{worker.last_words()}"
                )
            worker.check()
            await asyncio.sleep(0.25)


async def _dead_letters(plan: Plan) -> dict[str, str]:
    """Key and value of every dead letter by the place that it came from."""
    found: dict[str, str] = {}
    for topic in map(dead_letter_topic, plan.topics):
        consumer = log_consumer(plan.kafka)
        async with consumer:
            partitions = [TopicPartition(topic, number) for number in range(plan.kafka.partitions)]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            async for _, records in read_to(consumer, ends, timeout_s=STALLED_S):
                for record in records:
                    origin = "/".join(map(str, origin_of(record.headers)))
                    found[origin] = f"{record.key!r} {record.value!r}"
    return found


def _compare(what: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs, in a line for each of the first few."""
    wrong = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    lines = [
        f"{what} {key}: expected {expected.get(key)}, found {found.get(key)}"
        for key in sorted(wrong)[:5]
    ]
    return [*lines, f"{what}: {len(wrong)} differ in all"] if wrong else []


def _cents(amounts: dict[str, str]) -> dict[str, int]:
    return {key: int(Decimal(amount) * 100) for key, amount in amounts.items()}


def _tell(result: Summary, faults: list[str], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(asdict(result), indent=2) + "\n", "utf-8")
    console.print(
        f"{result.orders:,} orders, {result.events:,} events, {result.duplicates} duplicates, "
        f"{result.dead_letters} dead letters, {result.events_per_second:,.0f} events/s"
    )
    for fault in faults:
        console.print(fault, markup=False)
    console.print(
        "reconciled" if result.reconciled else "not reconciled",
        style="green" if result.reconciled else "red",
    )


def _web_port(*, keep: bool) -> int:
    """The usual one to look at, any free one else: two demos that start together would both find the usual one free."""
    if keep:
        with suppress(OperatingError):
            check_port(HOST, app.conf.web_port)
            return app.conf.web_port
    return free_port()


def _stay(plan: Plan, worker: WorkerProcess) -> None:
    words = f"""
tables         {worker.url}/tables/
a page of one  {worker.url}/tables/stock_reserved/?limit=5
subscriptions  {worker.url}/subscriptions/
Kafka          {plan.kafka.bootstrap_servers}, topics {", ".join(plan.topics)}
a token        curl -H "Authorization: Bearer $(cat {worker.data / READ_FILE})" {worker.url}/tables/
worker's log   {worker.log}
Ctrl-C ends everything."""
    with suppress(KeyboardInterrupt):
        console.print(words, soft_wrap=True)  # a command that is broken in two cannot be copied
        while True:
            worker.check()
            time.sleep(0.5)


if __name__ == "__main__":
    demo()
