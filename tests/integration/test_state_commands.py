"""The commands of the state on a real Kafka: rows go out and come in, stores are verified, state is made anew."""

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rocksdict

from famulus.config import ConsumerConfig, KafkaConfig
from famulus.dev.worker import WorkerProcess
from famulus.kafka.admin import add_partitions, create_topics
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord
from famulus.state.changelog import row_key
from tests.integration.conftest import PARTITIONS, settings_of
from tests.support.on_kafka.commands import faust, one_line

Start = Callable[..., WorkerProcess]
Rows = dict[tuple[str, str], Any]
TOPIC = "visit-events"
# Retention goes by this.
BEGAN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
NAMES = [f"guest/{number}" for number in range(20)]
AGENT = """
from datetime import timedelta
from decimal import Decimal
from faust import Record
from app import Deliveries, app, handles
from models.visits import VisitMade


class Stay(Record):
    count: int
    paid: Decimal


visits = app.subscription("visit-events")
stays = visits.Table("stays", key=str, value=Stay, default=lambda: Stay(count=0, paid=Decimal(0)))
per_hour = visits.Table("per_hour", key=str, value=int, default=int).tumbling(
    timedelta(hours=1), expires=timedelta(days=90))


@app.agent(visits)
async def visit_agent(deliveries: Deliveries) -> None:
    await deliveries.carry()


@handles(VisitMade)
async def note(visit: VisitMade) -> None:
    before = stays[visit.name]
    stays[visit.name] = Stay(count=before.count + 1, paid=before.paid + Decimal("0.10"))
    per_hour[visit.name] += 1
"""
MODEL = """
from famulus import Event
class VisitMade(Event, namespace="visits.VisitMade", topic="visit-events", key="name"):
    name: str
"""


class House:
    """The checkout of a team that counts visits: its worker, its events, its commands."""

    def __init__(self, kafka: KafkaConfig, folder: Path, data: Path, start: Start) -> None:
        for file in (*folder.glob("agents/[os]*.py"), *folder.glob("models/[os]*.py")):
            file.unlink()
        (folder / "agents" / "visits.py").write_text(AGENT)
        (folder / "models" / "visits.py").write_text(MODEL)
        self.kafka = kafka
        self._start = start
        self._folder = folder
        self.data = data
        self.sent = 0

    def worker(self, partitions: int = PARTITIONS) -> WorkerProcess:
        """A worker that is at work."""
        environment = settings_of(self.kafka, self.data)
        return self._start(ready=partitions, cwd=self._folder, **environment)

    def visit(self, names: Iterable[str] = NAMES, hour: int = 0) -> None:
        """Send a visit of each."""

        async def run() -> None:
            async with Producer(self.kafka) as producer:
                await producer.send_all([self._record(name, hour) for name in names])

        asyncio.run(run())

    def _record(self, name: str, hour: int) -> ProducerRecord:
        self.sent += 1
        headers = [("ce_id", b"%d" % self.sent), ("ce_source", b"test")]
        value = json.dumps({"name": name}).encode()
        return ProducerRecord(
            self.kafka.topic(TOPIC), name.encode(), value, headers, None, _ms(hour)
        )

    def state(self, *arguments: str) -> tuple[int, str]:
        """Run `faust -A app state ...`."""
        return faust("state", *arguments, cwd=self._folder, **settings_of(self.kafka, self.data))

    def exported(self, *arguments: str) -> tuple[Path, list[dict[str, Any]]]:
        """Export; the file, and its lines."""
        file = self.data.with_suffix(".jsonl")
        code, output = self.state("export", "--output", str(file), *arguments)
        assert code == 0, output
        return file, [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def house(
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    checkout: Path,
    tmp_path: Path,
    start_worker: Start,
) -> House:
    """A house with its topics."""
    make_topics(TOPIC)
    return House(kafka, checkout, tmp_path / "data", start_worker)


def _ms(hour: int) -> int:
    return int((BEGAN + timedelta(hours=hour)).timestamp() * 1000)


def rows_of(worker: WorkerProcess) -> Rows:
    """Every row that a worker shows."""
    return {
        (table, key): value
        for table in ("stays", "per_hour")
        for key, value in worker.rows(table).items()
    }


def as_rows(lines: list[dict[str, Any]]) -> Rows:
    """The rows of an export."""
    return {(line["table"], line["key"]): line["value"] for line in lines}


def expected(visits: Iterable[tuple[str, int]]) -> Rows:
    """The rows after *visits*, each a name and the hour."""
    per_hour = Counter(visits)
    per_name: Counter[str] = Counter()
    for (name, _), count in per_hour.items():
        per_name[name] += count
    return {
        **{
            ("stays", name): {"count": n, "paid": f"{n // 10}.{n % 10}0"}
            for name, n in per_name.items()
        },
        **{
            ("per_hour", f"{(BEGAN + timedelta(hours=hour)).isoformat()}/{name}"): n
            for (name, hour), n in per_hour.items()
        },
    }


ONCE = [(name, 0) for name in NAMES]


def test_export_is_what_the_views_show_and_a_store_is_verified(
    house: House, wait_settled: Callable[..., None]
) -> None:
    """Export works beside a worker, what writes or opens stores does not; one wrong byte on disk is found."""
    worker = house.worker()
    house.visit()
    house.visit(hour=1)
    wait_settled(TOPIC, expected=40)
    _, lines = house.exported()
    assert as_rows(lines) == rows_of(worker) == expected(ONCE + [(name, 1) for name in NAMES])
    assert [(line["table"], line["key"]) for line in lines] == sorted(
        (line["table"], line["key"]) for line in lines
    )
    file, some = house.exported("--table", "stays")
    assert as_rows(some) == {
        key: value for key, value in as_rows(lines).items() if key[0] == "stays"
    }

    for arguments, says in [
        (["import", "--topic", TOPIC, str(file)], "stop its workers first"),
        (["replay", "--topic", TOPIC, "--yes"], "stop its workers first"),
        (["verify"], "in use by process"),
        (["export", "--table", "nothing"], "no table 'nothing'; there are: stays, per_hour"),
    ]:
        code, output = house.state(*arguments)
        assert (code, says in one_line(output)) == (78, True), output
    assert rows_of(worker) == as_rows(lines)
    assert worker.stop() == 0

    code, output = house.state("verify")
    assert (code, output.count("none")) == (0, PARTITIONS), output
    line = some[0]
    store = (
        house.data
        / "state"
        / f"{house.kafka.consumer_config.group_id}-{TOPIC}-state"
        / str(line["partition"])
    )
    options = rocksdict.Options(raw_mode=True)
    db: Any = rocksdict.Rdict(str(store), options)  # Any: rocksdict is untyped
    key = row_key("stays", line["key"].encode())
    db[key] = db[key].replace(b'"count":2', b'"count":3')
    db.close()
    code, output = house.state("verify")
    assert code == 1, output
    assert f"row stays/{line['key']} differs" in output
    shutil.rmtree(store)
    code, output = house.state("verify", "--topic", TOPIC)
    assert (code, output.count("no local store")) == (0, 1), output


def test_rows_move_to_another_group_and_number_of_partitions(
    house: House,
    kafka: KafkaConfig,
    start_worker: Start,
    tmp_path: Path,
    wait_settled: Callable[..., None],
) -> None:
    """What one group exports another imports, however many partitions it has; a wrong line stops all of it."""
    worker = house.worker()
    house.visit()
    wait_settled(TOPIC, expected=20)
    assert worker.stop() == 0
    file, lines = house.exported()

    there = KafkaConfig(
        bootstrap_servers=kafka.bootstrap_servers,
        topic_prefix=f"{kafka.topic_prefix}other.",
        consumer_config=ConsumerConfig(
            group_id=f"{kafka.topic_prefix}other", session_timeout_ms=10_000
        ),
    )
    asyncio.run(
        create_topics(
            there, {there.topic(TOPIC + suffix): 7 for suffix in ("", ".dead-letter")}, 30.0
        )
    )
    house.kafka, house.data = there, tmp_path / "other"
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text(file.read_text() + json.dumps(lines[0]))
    code, output = house.state("import", "--topic", TOPIC, str(wrong))
    assert (code, f"line {len(lines) + 1}: the row of line 1 again" in one_line(output)) == (
        78,
        True,
    ), output
    assert house.exported()[1] == []

    code, output = house.state("import", "--topic", TOPIC, str(file))
    assert (code, output.strip()) == (0, "40 rows written"), output
    worker = house.worker(7)
    assert rows_of(worker) == as_rows(lines)
    house.visit()
    wait_rows(worker, expected(ONCE + ONCE))


def test_a_topic_that_got_more_partitions_takes_its_rows_along(
    house: House, wait_settled: Callable[..., None]
) -> None:
    """`import --replace` gives the state as many partitions as the source has; positions and marks stay."""
    worker = house.worker()
    house.visit()
    wait_settled(TOPIC, expected=20)
    assert worker.stop() == 0
    kafka = house.kafka
    asyncio.run(add_partitions(kafka, kafka.topic(TOPIC), 7, 30.0))
    file, lines = house.exported()
    code, output = house.state("import", "--topic", TOPIC, str(file))
    assert code == 78, output
    assert "--replace" in one_line(output)
    code, output = house.state("import", "--topic", TOPIC, "--replace", str(file))
    assert code == 0, output
    assert output.startswith("40 rows written, ")
    worker = house.worker(7)
    assert rows_of(worker) == as_rows(lines)
    house.visit()
    wait_rows(worker, expected(ONCE + ONCE))
    assert worker.stop() == 0
    code, output = house.state("verify")
    assert (code, output.count("none")) == (0, 7), output


def test_a_replay_makes_the_state_anew(house: House, wait_settled: Callable[..., None]) -> None:
    """Each record from the new position on takes effect once, on empty tables; before it none does."""
    worker = house.worker()
    house.visit()
    house.visit()
    wait_settled(TOPIC, expected=40)
    assert worker.stop() == 0

    code, output = house.state("replay", "--topic", TOPIC)
    assert (code, "add --yes" in one_line(output)) == (2, True), output
    code, output = house.state("replay", "--topic", TOPIC, "--yes", "--from", "0:41")
    assert (code, "not 41" in one_line(output)) == (78, True), output
    assert as_rows(house.exported()[1]) == expected(ONCE + ONCE)

    code, output = house.state("replay", "--topic", TOPIC, "--yes")
    assert code == 0, output
    assert house.exported()[1] == []
    worker = house.worker()
    wait_rows(worker, expected(ONCE + ONCE))
    wait_settled(TOPIC, expected=40)
    assert worker.stop() == 0
    code, output = house.state("verify")
    assert (code, output.count("none")) == (0, PARTITIONS), output

    code, output = house.state("replay", "--topic", TOPIC, "--yes", "--from", "2100-01-01")
    assert code == 0, output
    worker = house.worker()
    house.visit(NAMES[:3], hour=2)
    wait_rows(worker, expected([(name, 2) for name in NAMES[:3]]))


def wait_rows(worker: WorkerProcess, wanted: Rows, timeout_s: float = 20.0) -> None:
    """Wait until a worker shows *wanted*, and that it still does a moment later."""
    deadline = time.monotonic() + timeout_s
    while rows_of(worker) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    assert rows_of(worker) == wanted
