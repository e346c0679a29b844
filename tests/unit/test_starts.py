"""Where reading begins: by the state, else the commit, else the settings."""

import pytest
from faust.types import TP

from app.errors import ConfigError
from app.storage.changelog import Processed
from app.worker.starts import Known, starts

PLACE = TP("orders", 0)


class Logs:
    """Partitions whose logs reach from 100 to 200; *asked* says of which ends somebody wanted to know."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def earliest_offsets(self, *partitions: TP) -> dict[TP, int]:
        """Where they begin."""
        self.asked += ["begin"] * len(partitions)
        return dict.fromkeys(partitions, 100)

    async def highwaters(self, *partitions: TP) -> dict[TP, int]:
        """Where they end."""
        self.asked += ["end"] * len(partitions)
        return dict.fromkeys(partitions, 200)


@pytest.mark.parametrize(
    ("known", "is_earliest", "found", "asked"),
    [
        (Known(Processed(150), 150, 150), True, {PLACE: 150}, ["begin", "end"]),  # the state is the truth
        (Known(Processed(150), 120, 120), True, {PLACE: 150}, ["begin", "end"]),  # and a commit was lost
        (Known(Processed(150), None, None), False, {PLACE: 150}, ["begin", "end", "end"]),
        (Known(Processed(20), 20, 20), True, {PLACE: 100}, ["begin", "end"]),  # what was between is gone
        (Known(None, 120, 120), True, {}, []),  # Faust reads on where the group has committed
        (Known(None, None, None), True, {PLACE: 100}, ["begin"]),
        (Known(None, None, None), False, {PLACE: 200}, ["end"]),
        (Known(None, 0, 0), False, {PLACE: 0}, []),  # where aiokafka would not move
    ],
)
async def test_where_reading_begins(
    known: Known, is_earliest: bool, found: dict[TP, int], asked: list[str]  # noqa: FBT001  # of the table
) -> None:  # fmt: skip
    """Brokers are asked no more than is needed."""
    logs = Logs()
    assert await starts({PLACE: known}, logs, "ignore", is_earliest=is_earliest) == found
    assert logs.asked == asked


async def test_a_state_of_another_topic_is_refused() -> None:
    """With the cure."""
    with pytest.raises(ConfigError, match=r"orders-0: .*the topic ends at 200.*state replay --topic orders"):
        await starts({PLACE: Known(Processed(201), 150, 150)}, Logs(), "ignore", is_earliest=True)
