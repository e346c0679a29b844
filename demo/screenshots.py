"""`make screenshots`: pictures of the console for the README, of a real worker at work on real orders.

Starts a broker unless there is one, and a worker; streams the sample for some minutes, some of it
spoilt, and takes each picture light and dark meanwhile.
"""

import asyncio
import itertools
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote
from uuid import uuid4

import click
from playwright.sync_api import Browser

from app import app
from demo import sample
from famulus.config import KafkaConfig
from famulus.deadletter.topics import dead_letter_topic
from famulus.dev.background import broker_for_use
from famulus.dev.browser import MISSING, chromium, is_installed, log_in
from famulus.dev.node import free_port
from famulus.dev.worker import WorkerProcess
from famulus.errors import OperatingError, UnavailableError
from famulus.kafka.admin import create_topics, delete_topics
from famulus.producer.producer import Producer
from famulus.producer.results import Published
from famulus.serialization.records import ProducerRecord
from famulus.webserver.auth import ADMIN_FILE

ROOT = Path(__file__).resolve().parents[1]
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SCALE = 0.02  # 30,000 orders
POISON = 12
NO_PIECE = 8  # orders of a line that asks for no piece, which their handler refuses
BYTES_MAX = 150_000  # of a picture
WIDTH, HEIGHT = 1000, 700
ORDERS, STOCK = "order-events", "stock-events"
TIMEOUT_S = app.settings.worker.startup_timeout_s


@click.command()
@click.option(
    "--seconds", type=click.IntRange(10, 280), default=240, help="For how long orders are streamed."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=ROOT / "docs",
    help="Where the pictures go.",
)
def screenshots(*, seconds: int, folder: Path) -> None:
    """Take the pictures. Exits with 69 when there is no Chromium."""
    if not is_installed():
        raise UnavailableError(MISSING)
    app.finalize()
    app.discover()
    with ExitStack() as running:
        work = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="famulus-")))
        broker = running.enter_context(broker_for_use())
        kafka = _kafka(
            broker.bootstrap_servers, "" if broker.is_embedded else f"pictures-{uuid4().hex[:8]}."
        )
        names = [kafka.topic(topic) for topic in (ORDERS, STOCK)]
        topics = dict.fromkeys([*names, *map(dead_letter_topic, names)], kafka.partitions)
        asyncio.run(create_topics(kafka, topics, TIMEOUT_S))
        if kafka.topic_prefix:
            running.callback(
                lambda: asyncio.run(delete_topics(kafka, kafka.topic_prefix, TIMEOUT_S))
            )
        sample.generate(SCALE, work)
        settings = {
            "KAFKA__BOOTSTRAPSERVERS": kafka.bootstrap_servers,
            "KAFKA__TOPICPREFIX": kafka.topic_prefix,
            "KAFKA__CONSUMERCONFIG__GROUPID": kafka.consumer_config.group_id,
            "WORKER__DATADIR": str(work / "state"),
        }
        worker = running.enter_context(
            WorkerProcess(settings, work / "worker.log", web_port=free_port())
        )
        worker.wait_ready(partitions=2 * kafka.partitions)
        stream = Stream(kafka, work)
        running.enter_context(stream)
        time.sleep(seconds)
        failed = stream.failed
        assert failed is not None, "no record was spoilt"
        with chromium() as browser:
            for name, path in _paths(failed).items():
                for scheme in SCHEMES:
                    _take(browser, worker, path, scheme, folder / f"console-{name}-{scheme}.png")


def _kafka(bootstrap_servers: str, run: str) -> KafkaConfig:
    base = app.settings.kafka
    group = base.consumer_config.model_copy(update={"group_id": f"{run}famulus"})
    changed = {
        "bootstrap_servers": bootstrap_servers,
        "topic_prefix": run,
        "consumer_config": group,
    }
    return base.model_copy(update=changed)


class Stream:
    """Sends orders in a thread of its own, now more, now fewer of them.

    *failed* is one that no handler can read.
    """

    def __init__(self, kafka: KafkaConfig, folder: Path) -> None:
        self.failed: Published | None = None
        self._kafka = kafka
        self._records = _records(folder, kafka.topic(ORDERS))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._send()), name="orders")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _send(self) -> None:
        async with Producer(self._kafka) as producer:
            began = time.monotonic()
            while not self._stop.is_set():
                count = 8 + round(6 * math.sin((time.monotonic() - began) / 9))
                chunk = list(itertools.islice(self._records, count))
                places = await producer.send_all(chunk)
                spoilt = [
                    place for place, record in zip(places, chunk, strict=True) if not record.headers
                ]
                self.failed = next(iter(spoilt), self.failed)
                await asyncio.sleep(0.1)


def _records(folder: Path, topic: str) -> Iterator[ProducerRecord]:
    """The sample's orders, some of them spoilt in one way or the other."""
    event_type = app.event_type("orders.OrderCreated")
    refused = 0
    for number, record in enumerate(
        sample.records(folder, event_type, topic, duplicates=25, poison=POISON)
    ):
        if record.headers and number % 90 == 50 and refused < NO_PIECE:
            refused += 1
            value = (record.value or b"").replace(b'"quantity":', b'"quantity":-', 1)
            yield ProducerRecord(topic, record.key, value, record.headers)
        else:
            yield record


def _paths(failed: Published) -> dict[str, str]:
    """What is taken a picture of."""
    asked = f"topic={quote(failed.topic)}&partition={failed.partition}&offset={failed.offset}"
    return {
        "overview": "/console",
        "dead-letters": "/console/dead-letters",
        "explain": f"/console/explain?{asked}",
    }


def _take(
    browser: Browser, worker: WorkerProcess, path: str, scheme: Literal["light", "dark"], file: Path
) -> None:
    """Raises OperatingError when the picture is larger than it may be."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": WIDTH, "height": HEIGHT})
    page = context.new_page()
    log_in(page, worker.url, (worker.data / ADMIN_FILE).read_text("ascii").strip())
    page.goto(worker.url + path)
    page.get_by_role("heading", level=1).wait_for()
    height = min(page.evaluate("document.body.scrollHeight"), HEIGHT)
    page.screenshot(path=file, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
    context.close()
    if (size := file.stat().st_size) > BYTES_MAX:
        raise OperatingError(
            f"{file.name} has {size:,} bytes, more than {BYTES_MAX:,}: show less on the page"
        )
    click.echo(f"{file.name}: {size:,} bytes")


if __name__ == "__main__":
    screenshots()
