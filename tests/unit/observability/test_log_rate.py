"""Tests of the rate limit on repeated log lines of libraries."""

import logging
import socket
from collections import Counter
from contextlib import suppress
from unittest.mock import AsyncMock

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from famulus.config import KafkaConfig
from famulus.observability.log_rate import BURST, EVERY_S, KEPT, LIBRARIES, Rate, calm_libraries
from famulus.producer.producer import Producer


def record(
    template: str, *values: object, level: int = logging.ERROR, name: str = "aiokafka"
) -> logging.LogRecord:
    """Return a log record of a library."""
    return logging.LogRecord(name, level, "", 0, template, values, None)


def test_the_first_ones_are_heard_and_then_how_many_there_were() -> None:
    """The values in a message do not matter.

    After EVERY_S, the next line has the number of lines held back, once.
    """
    now = 0.0
    rate = Rate(lambda: now)
    heard = [rate.filter(record("Topic %s not found", f"t{number}")) for number in range(1_000)]
    assert (sum(heard), heard[:BURST]) == (BURST, [True] * BURST)
    now = EVERY_S
    late = record("Topic %s not found", "100%s")
    assert rate.filter(late)
    assert late.getMessage() == f"Topic 100%s not found (and {1_000 - BURST:,} more times before)"
    again = record("Topic %s not found", "t")
    assert rate.filter(again)
    assert again.getMessage() == "Topic t not found"


@pytest.mark.parametrize(
    "other",
    [
        record("Topic %s is back", "t"),
        record("Topic %s not found", "t", level=logging.CRITICAL),
        record("Topic %s not found", "t", name="faust"),
        record("Topic %s not found", "t", level=logging.INFO),
    ],
)
def test_another_message_is_heard_all_the_same(other: logging.LogRecord) -> None:
    """The template, level and logger identify a message; below a warning, none is held back."""
    rate = Rate(lambda: 0.0)
    for _ in range(100):
        rate.filter(record("Topic %s not found", "t"))
    assert rate.filter(other)


def test_a_text_that_was_put_together_before_is_known_by_its_words() -> None:
    """Numbers in a text do not make it another message."""
    rate = Rate(lambda: 0.0)
    texts = [f"connection {number} to port {number + 9} failed" for number in range(500)]
    assert sum(rate.filter(record(text)) for text in texts) == BURST


def test_what_is_remembered_is_bounded() -> None:
    """Messages that never repeat use bounded memory, and all are logged."""
    rate = Rate(lambda: 0.0)
    assert all(
        rate.filter(record("x" * (number // 26 + 1) + chr(97 + number % 26)))
        for number in range(KEPT * 3)
    )
    assert len(rate._said) <= KEPT


async def test_a_client_whose_broker_is_away_logs_little(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka logs each of 60 attempts; only the first lines pass."""
    monkeypatch.setattr("famulus.observability.log_rate._rate._said", {})
    calm_libraries()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for _ in range(60):
        client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{port}")
        with pytest.raises(KafkaConnectionError):
            await client.bootstrap()
        await client.close()
    said = Counter(
        record.msg for record in caplog.records if record.name.partition(".")[0] in LIBRARIES
    )
    assert said
    assert max(said.values()) <= BURST


async def test_a_script_that_publishes_has_its_libraries_calmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only the loggers of libraries get a filter, and no logger loses its handlers."""
    log = logging.getLogger("aiokafka.made_since")
    before = logging.getLogger().handlers[:], log.level
    monkeypatch.setattr("famulus.producer.connection.Connection.start", AsyncMock())
    with suppress(Exception):
        await Producer(KafkaConfig(bootstrap_servers="127.0.0.1:9")).start()
    assert any(isinstance(found, Rate) for found in log.filters)
    assert (logging.getLogger().handlers, log.level) == before
    assert not logging.getLogger("mine").filters
