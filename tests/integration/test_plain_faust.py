"""Plain Faust beside subscriptions in one worker: agents, tables, timers, pages work as Faust users know them."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from famulus.config import KafkaConfig
from famulus.dev.worker import WorkerProcess
from famulus.errors import ConfigError
from famulus.kafka.admin import create_topics
from famulus.producer.producer import Producer

PLAIN = '''
"""A plain Faust agent on a topic of its own, with a plain Faust table."""
from app import app

clicks = app.topic(app.settings.kafka.topic("clicks"), key_type=str, value_type=int)
total = app.Table("total", default=int, partitions=4)
ticks = []


@app.agent(clicks)
async def count(stream):
    async for key, number in stream.items():
        total[key] += number


@app.timer(0.2)
async def tick():
    ticks.append(1)


@app.page("/plain/")
async def plain(view, request):
    return view.json({"total": {key: total[key] for key in total}, "ticks": len(ticks)})
'''
WRONG = """
from app import app
wrong = app.subscription("wrong-events")

@app.agent(wrong)
async def agent(deliveries):
    BODY
"""


def test_a_plain_agent_with_a_table_works_beside_subscriptions(
    checkout: Path,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Callable[..., WorkerProcess],
) -> None:
    """Also after a restart, when Faust restores its table from its changelog."""
    (checkout / "agents" / "plain.py").write_text(PLAIN)
    make_topics("order-events", "stock-events")
    asyncio.run(create_topics(kafka, {kafka.topic("clicks"): 4}, 30.0))

    async def send(count: int) -> None:
        async with Producer(kafka) as producer:
            for number in range(count):
                await producer.produce("clicks", f"user-{number % 3}", b"1")

    def wait_total(expected: int) -> dict[str, int]:
        deadline = time.monotonic() + 30
        while True:
            answer = worker.get("/plain/")
            if (
                sum(answer["total"].values()) >= expected and answer["ticks"]
            ) or time.monotonic() > deadline:
                assert answer["ticks"] > 0
                totals: dict[str, int] = answer["total"]
                return totals
            time.sleep(0.2)

    worker = start_worker(cwd=checkout)
    asyncio.run(send(30))
    assert wait_total(30) == {"user-0": 10, "user-1": 10, "user-2": 10}
    time.sleep(2)  # more than the commit interval
    assert worker.stop() == 0
    worker = start_worker(cwd=checkout)
    asyncio.run(send(3))
    assert wait_total(33) == {"user-0": 11, "user-1": 11, "user-2": 11}


AGENTS = {"not awaited": "deliveries.carry()", "iterates": "[_ async for _ in deliveries]"}


@pytest.mark.parametrize("body", AGENTS.values(), ids=AGENTS)
def test_an_agent_that_does_not_carry_ends_the_worker(
    checkout: Path,
    kafka: KafkaConfig,
    make_topics: Callable[..., None],
    start_worker: Callable[..., WorkerProcess],
    body: str,
) -> None:
    """Nothing would ever be handled, behind green probes; the last line says what to write instead."""
    (checkout / "agents" / "wrong.py").write_text(WRONG.replace("BODY", body))
    make_topics("order-events", "stock-events", "wrong-events")
    worker = start_worker(cwd=checkout, ready=0, WORKER__STARTUPTIMEOUTS="3")
    seen = set()
    while worker.exit_code() is None:
        with suppress(OSError):
            seen.add((worker.answer("/readyz")[0], worker.answer("/startupz")[0]))
        time.sleep(0.1)
    assert worker.exit_code() == ConfigError.exit_code
    assert {ready for ready, _ in seen} <= {503}
    says = (
        f"nothing of topic {kafka.topic('wrong-events')} is handled, its agent "
        "agents.wrong.agent does not carry"
    )
    assert says in worker.log.read_text().strip().splitlines()[-1]
