"""Something that handlers need is away for a while: no event fails, none is lost, each key goes on in its order."""

import time
from collections import defaultdict

from tests.support.on_kafka.house import House, wait_for

EVENTS, KEYS, OUTAGE_S = 2_000, 200, 10.0
NEEDING = """
from app import Breaker, TransientError


@handles(Thing, retry=Retry(wait_initial_s=0.2), breaker=Breaker(wait_initial_s=0.5, wait_max_s=2))
async def note(thing: Thing) -> None:
    is_away = Path("away").exists()
    with open("ledger", "a") as f:
        f.write(f"{thing.key} {thing.number} {not is_away}\\n")
    await asyncio.sleep(0.001)
    if is_away:
        raise (TransientError if thing.number % 2 else ConnectionRefusedError)("away")
    count[thing.key] += 1
"""


def test_an_outage_costs_no_attempts_and_no_order(house: House) -> None:
    """One event at a time tries meanwhile, which the readiness says without turning red; reading stops by itself."""
    house.build(NEEDING, partitions=2)
    worker = house.start(WORKER__QUEUERECORDS="500")
    house.send(*(house.thing(f"key-{key}", 0) for key in range(KEYS)))  # all is well
    house.wait_settled(KEYS, worker)
    (house.checkout / "away").touch()
    began = time.monotonic()
    house.send(
        *(house.thing(f"key-{number % KEYS}", 1 + number // KEYS) for number in range(EVENTS))
    )
    wait_for(lambda: bool(worker.get("/readyz")["waiting"]))
    time.sleep(1)
    tried = len(ledger(house))
    while time.monotonic() < began + OUTAGE_S:
        status, answer = worker.answer("/readyz")
        assert (status, answer["why"]) == (200, "")
        assert "what a handler needs seems to be away: agents.things.note" in answer["waiting"][0]
        time.sleep(0.5)
    assert 3 <= len(ledger(house)) - tried <= 20
    (house.checkout / "away").unlink()
    house.wait_settled(KEYS + EVENTS, worker)
    outcomes = house.outcomes(worker)
    assert (outcomes["handled"], outcomes["dead_lettered"]) == (KEYS + EVENTS, 0)
    assert worker.rows("count") == {f"key-{key}": 1 + EVENTS // KEYS for key in range(KEYS)}
    assert worker.get("/readyz")["waiting"] == []
    order: dict[str, list[int]] = defaultdict(list)
    for key, number, is_handled in ledger(house):
        if is_handled:
            order[key].append(number)
    assert order == {f"key-{key}": list(range(1 + EVENTS // KEYS)) for key in range(KEYS)}
    text = worker.log.read_text("utf-8", "replace")
    assert (
        text.count("what a handler needs"),
        text.count("works again"),
        text.count("dead letter"),
    ) == (1, 1, 0)


def ledger(house: House) -> list[tuple[str, int, bool]]:
    """Every attempt: at what, and whether what it needs was there."""
    lines = (line.split() for line in (house.checkout / "ledger").read_text().splitlines())
    return [(key, int(number), there == "True") for key, number, there in lines]
