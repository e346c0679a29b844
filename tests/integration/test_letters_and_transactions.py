"""What a broker alone shows: times of letters, marks of transactions, an open one, retry topics of earlier code."""

import asyncio
import json
import time

from aiokafka import AIOKafkaProducer

from famulus.kafka.admin import create_topics
from tests.integration.conftest import settings_of
from tests.support.on_kafka.commands import faust
from tests.support.on_kafka.dead_letters import Failed, in_transaction
from tests.support.on_kafka.house import LIMIT_S, House, wait_for

DAY_MS = 86_400_000
FAILING = """
from app import PermanentError


@handles(Thing, retry=Retry(1), retry_topics={waits})
async def note(thing: Thing, delivery: Delivery) -> None:
    if thing.note == "bad" and not Path("mended").exists():
        raise PermanentError("no")
    if thing.note == "away":
        raise ConnectionError("no answer")
    count[thing.key] = delivery.timestamp_ms
"""


def test_letters_times_transactions_and_retired_retry_topics(house: House) -> None:
    """Letters outlive the times of their events; marks are no lag; what waits in topics of earlier code is tried."""
    free = {"retention.ms": "-1", "message.timestamp.after.max.ms": str(2**63 - 1)}
    asyncio.run(create_topics(house.kafka, {house.topic: 1}, LIMIT_S, free))
    house.build(FAILING.format(waits='["0.5s", "5s"]'))
    failed, settings = Failed(house), settings_of(house.kafka, house.folder / "asked")
    worker = house.start()
    began_ms = round(time.time() * 1000)
    times = [began_ms - 40 * DAY_MS, began_ms + 2 * DAY_MS, began_ms * 1000]
    house.send(
        *(house.thing(f"k{n}", n, "bad", at_ms=at) for n, at in enumerate(times)),
        house.thing("w", 9, "away"),
    )
    house.wait_settled(4, worker)
    letters = failed.logged(failed.letters_topic, 0)
    assert len(letters) == 3
    wait_for(lambda: len(failed.logged(f"{house.topic}.{house.group}.retry-2", 0)) == 1)
    house.kill(worker)

    def ask(*arguments: str) -> list[dict[str, object]]:
        code, output = faust(*arguments, "--json", cwd=house.checkout, **settings)
        assert code in {0, 1}, output
        return [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    house.change(FAILING.format(waits='["0.5s"]'))
    # Settled, but it waits in retry-2.
    assert ask("explain", "things", "0", "3")[0]["state"] == "nobody reads"
    assert any(of["check"] == "retry-topic-retired" for of in ask("doctor"))
    worker = house.start("two")
    wait_for(lambda: len(failed.logged(failed.letters_topic, 0)) == 4, LIMIT_S)
    (house.checkout / "mended").touch()
    assert faust("dlq", "redrive", "--everything", "--yes", cwd=house.checkout, **settings)[0] == 0
    wait_for(lambda: [worker.rows("count").get(f"k{n}") for n in range(3)] == times, LIMIT_S)

    in_transaction(house.kafka, [house.thing("t", 1, partition=0)], is_kept=True)
    in_transaction(house.kafka, [house.thing("t", 2, partition=0)], is_kept=False)
    wait_for(lambda: house.committed() == {0: 8}, LIMIT_S, lambda: f"{house.committed()}")

    async def hold() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=house.kafka.bootstrap_servers, transactional_id=house.group
        )
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(house.topic, b"{}", partition=0)
        says = "is behind an open transaction since offset 8"
        await asyncio.to_thread(
            wait_for, lambda: says in str(worker.get("/readyz")["waiting"]), LIMIT_S
        )
        [answer] = await asyncio.to_thread(ask, "explain", "things", "0", "8")
        assert answer["state"] == "behind a transaction"
        [lag] = await asyncio.to_thread(ask, "lag", "--topic", "things")
        # JSON.
        assert [of["open_since"] for of in lag["partitions"]] == [8]  # type: ignore[attr-defined]
        await producer.abort_transaction()
        await producer.stop()

    asyncio.run(hold())
    wait_for(lambda: house.committed() == {0: 10}, LIMIT_S, lambda: f"{house.committed()}")
    assert worker.stop() == 0
