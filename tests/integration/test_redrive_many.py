"""Thousands of dead letters come back to a mended handler: each once, in the order of its key, stopped in the middle.

`REDRIVE_LETTERS=10000` is the long form.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.integration.test_dead_letters_return import Returning
from tests.support.on_kafka.house import House, wait_for

LETTERS = int(os.environ.get("REDRIVE_LETTERS", "1500"))
KEYS = 50
LIMIT_S = 60 + LETTERS / 50
HANDLERS = """
from app import PermanentError


@handles(Thing)
async def note(thing: Thing) -> None:
    if not Path("mended").exists():
        raise PermanentError("not yet")
    with open("ledger", "a") as ledger:
        ledger.write(f"{thing.key} {thing.number}\\n")
    count[thing.key] += 1
"""


@pytest.mark.parametrize("policy", ["sequence", "skip"])
def test_thousands_come_back_once_and_in_order(house: House, policy: str) -> None:
    """Also when the command is stopped in the middle, and a further time for nothing."""
    failed = Returning(house)
    house.build(HANDLERS, options=f', on_dead_letter="{policy}"', partitions=4)
    failed.worker = house.start(DEADLETTER__FLOODRUN="0")
    numbers = range(LETTERS // KEYS)
    house.send(*(house.thing(f"key-{key}", number) for number in numbers for key in range(KEYS)))
    house.wait_settled(LETTERS, failed.worker, timeout_s=LIMIT_S)
    assert len(failed.open()) == LETTERS
    failed.mend()

    redriving = failed.started("redrive", "--everything", "--yes", "--rate", str(LETTERS // 4))
    failed.wait_audits(LETTERS // 8)
    redriving.send_signal(signal.SIGINT)
    redriving.wait(30)
    sent = len(failed.audits())
    assert LETTERS // 8 <= sent < LETTERS
    failed.redrive("--everything", "--rate", "0")
    ledger = Path(house.checkout / "ledger")
    wait_for(lambda: len(ledger.read_text().splitlines()) >= LETTERS, LIMIT_S)
    failed.redrive("--everything", "--all", "--rate", "0")
    house.send(*(house.thing(f"key-{key}", len(numbers)) for key in range(KEYS)))
    wait_for(lambda: len(ledger.read_text().splitlines()) >= LETTERS + KEYS, LIMIT_S)

    found: dict[str, list[int]] = {}
    for line in ledger.read_text().splitlines():
        key, number = line.split()
        found.setdefault(key, []).append(int(number))
    assert found == {f"key-{key}": [*numbers, len(numbers)] for key in range(KEYS)}
    wait_for(lambda: set(failed.rows().values()) == {len(numbers) + 1})
    assert failed.open() == []
