"""Tests of the health of a worker's partitions: state, time to drain, time without progress."""

import pytest

from famulus.kafka.burrow import LOOKS, State
from famulus.kafka.partition_health import PartitionHealth, PartitionHealths


def looked(*looks: tuple[float, int, int]) -> PartitionHealth:
    """Return the health of one partition after samples of (seconds, end of the log, lag)."""
    standings: PartitionHealths[str] = PartitionHealths()
    found = {"p": PartitionHealth(None, None, 0.0)}
    for at_s, end, lag in looks:
        found = standings.look(at_s, {"p": (end, lag)})
    return found["p"]


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        ([(0, 10, 0)], PartitionHealth(State.OK, 0.0, 0.0)),
        ([(0, 10, 4)], PartitionHealth(None, None, 0.0)),  # too early to decide
        # 2 records a second are settled, 1 arrives.
        ([(0, 100, 50), (15, 115, 35)], PartitionHealth(State.OK, 35.0, 0.0)),
        ([(0, 100, 50), (15, 115, 60)], PartitionHealth(State.WARNING, None, 0.0)),
        ([(0, 100, 50), (15, 100, 50)], PartitionHealth(State.STALLED, None, 15.0)),
        (
            [(0, 100, 50), (15, 100, 50), (30, 101, 50), (40, 101, 50)],
            PartitionHealth(State.WARNING, None, 10.0),
        ),
        ([(0, 100, 50), (15, 100, 80)], PartitionHealth(State.REWIND, None, 0.0)),
        ([(0, 100, 50), (15, 100, 50), (30, 100, 0)], PartitionHealth(State.OK, 0.0, 0.0)),
    ],
    ids=["ok", "early", "catching-up", "warning", "stalled", "moved-once", "rewind", "caught-up"],
)
def test_a_standing(looks: list[tuple[float, int, int]], expected: PartitionHealth) -> None:
    assert looked(*looks) == expected


def test_partition_behind_an_open_transaction_is_not_stalled() -> None:
    """No worker of the group can end the transaction; lag and waiting time are as usual."""
    standings: PartitionHealths[str] = PartitionHealths()
    standings.look(0, {"p": (10, 5)}, {"p"})
    assert standings.look(15, {"p": (10, 5)}, {"p"})["p"] == PartitionHealth(
        State.WARNING, None, 15.0
    )
    assert standings.look(30, {"p": (10, 5)})["p"].state is State.STALLED


def test_windows_stay_small_and_those_of_others_go() -> None:
    """The window of a partition is dropped when it is revoked."""
    standings: PartitionHealths[str] = PartitionHealths()
    for second in range(0, 3_000, 15):
        standings.look(second, {"a": (10, 5), "b": (10, 5)})
    assert {len(window) for window in standings._windows.values()} == {LOOKS}
    assert standings.look(3_000, {"a": (10, 5)})["a"] == PartitionHealth(
        State.STALLED, None, 3_000.0
    )
    assert standings._windows.keys() == standings._since_s.keys() == {"a"}
    assert standings.look(3_015, {"b": (10, 5)})["b"] == PartitionHealth(None, None, 0.0)
