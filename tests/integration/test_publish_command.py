"""`faust -A app publish`: events of a file or standard input reach their topics, or none does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from aiokafka import TopicPartition

from famulus.config import KafkaConfig
from famulus.dev.node import free_port
from famulus.kafka.partitioner import chooser
from tests.integration.conftest import PARTITIONS, settings_of
from tests.support.on_kafka.commands import faust, one_line
from tests.support.on_kafka.house import House
from tests.support.places import PROJECT


def line(number: int, **more: Any) -> str:
    """An order, as a line."""
    value = {
        "order_id": str(UUID(int=number)),
        "customer_id": str(UUID(int=number % 3)),
        "total_amount": "9.90",
        "created_at": "2026-01-01T00:00:00+00:00",
        "items": [{"product_id": "p", "quantity": 1, "price": "9.90"}],
    }
    return json.dumps({"type": "orders.OrderCreated", "value": value, **more})


def published(kafka: KafkaConfig, tmp_path: Path, *words: str, text: str) -> tuple[int, str, str]:
    """Exit code and what was printed, of the command with *text* on its standard input."""
    done = subprocess.run(
        [Path(sys.executable).with_name("faust"), "-A", "app", "publish", *words],
        cwd=PROJECT,
        input=text,
        text=True,
        env={**os.environ, **settings_of(kafka, tmp_path / "data")},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_events_of_a_file_reach_their_topic(
    house: House, kafka: KafkaConfig, tmp_path: Path, make_topics: Callable[..., None]
) -> None:
    """In their order by key, with the ids that the lines gave them; what a worker would not take does not leave."""
    make_topics("order-events")
    file = tmp_path / "orders.ndjson"
    file.write_text(
        "\n".join([*(line(n) for n in range(1, 1_201)), "", line(0, key="other", id="4711"), ""])
    )
    settings = settings_of(kafka, tmp_path / "data")
    code, output = faust("publish", "--json", str(file), **settings)
    assert code == 0, output
    places = [json.loads(shown) for shown in output.splitlines() if shown.startswith("{")]
    assert [place["line"] for place in places] == [*range(1, 1_201), 1_202]
    assert "published: 1,201 events of order-events" in output

    choose = chooser(kafka.producer_config.partitioner)
    topic = kafka.topic("order-events")
    logs = [house.logged(number, topic=topic) for number in range(PARTITIONS)]
    assert sum(map(len, logs)) == 1_201
    for number, log in enumerate(logs):
        assert all(choose(record.key, PARTITIONS) == number for record in log)
        orders = [
            json.loads(record.value or b"")["order_id"] for record in log if record.key != b"other"
        ]
        assert orders == sorted(orders)
    [own] = [dict(record.headers) for log in logs for record in log if record.key == b"other"]
    assert own["ce_id"] == b"4711"
    assert own["ce_type"] == b"orders.OrderCreated"
    assert places[-1]["topic"] == TopicPartition(topic, 0).topic


def test_one_wrong_line_stops_all_of_them(
    kafka: KafkaConfig, tmp_path: Path, make_topics: Callable[..., None], house: House
) -> None:
    """Each fault with its line's number and no payload; a dry run needs no broker."""
    make_topics("order-events")
    wrong = json.loads(line(2))
    wrong["value"]["items"][0]["price"] = "secret"
    text = "\n".join(
        [line(1), json.dumps(wrong), line(3, type="orders.Nothing"), "{", line(5, more=1), line(6)]
    )
    code, output, errors = published(kafka, tmp_path, text=text)
    assert (code, output) == (78, ""), errors
    assert "4 of 6 lines are wrong; nothing was sent" in one_line(errors)
    assert "line 2: $.items[0].price: " in errors
    assert "secret" not in errors
    assert (
        "line 3: there is no event type 'orders.Nothing'; there are orders.OrderCreated" in errors
    )
    for number in (4, 5):
        assert f"line {number}: " in errors
    assert all(
        house.logged(number, topic=kafka.topic("order-events")) == []
        for number in range(PARTITIONS)
    )

    away = kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{free_port()}"})
    code, output, errors = published(away, tmp_path, "--dry-run", text=line(1))
    assert (code, output) == (0, "")
    assert "1 event of order-events: nothing was sent" in errors


def test_a_missing_topic_is_78(kafka: KafkaConfig, tmp_path: Path) -> None:
    """Before anything is sent."""
    code, _, errors = published(kafka, tmp_path, text=line(1))
    assert code == 78, errors
    assert "missing topics: " in one_line(errors)
