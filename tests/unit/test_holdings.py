"""What a worker holds of the partitions that are assigned to it."""

from pathlib import Path
from typing import Any

from faust.types import TP

from app.storage.restore import Restorer
from app.storage.store import StateFolder
from app.worker.holdings import Holdings, Remembered
from tests.stand_ins.log import TOPIC, Log, Wire
from tests.stand_ins.settling import MEMORY


async def test_only_what_has_a_store_shares_the_memory_of_stores(tmp_path: Path) -> None:
    """Partitions of a subscription that remembers nothing take no part of it."""
    log: Any = Log()
    wire = Wire(log, [])
    remembered = {"kept": Remembered(TOPIC, None, {}, {}), "not-kept": Remembered(None, None, {}, {})}
    holdings = Holdings(
        remembered, StateFolder(tmp_path), MEMORY, log, wire, Restorer(log, wire, 24), 1000, 24, lambda _: None
    )
    for kept in (0, 1):
        assigned = [*(TP("kept", n) for n in range(kept)), *(TP("not-kept", n) for n in range(9)), TP("plain", 0)]
        assert await holdings.acquire(assigned, [], lambda: True)
        assert holdings.memory.stores == 1
        assert {tp.topic for tp in holdings.held} == ({"kept", "not-kept"} if kept else {"not-kept"})
    await holdings.release()
