"""Tests of the lookup of topics: new ones are awaited for a short time.

The wait is shorter than the startup time limit, for an operator who forgot to create the topics.
"""

import pytest

from famulus.config import KafkaConfig
from famulus.kafka import admin as health

SETTINGS = KafkaConfig()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """Return the list of answers of the cluster, one per lookup; the last one stays.

    The lookups do not wait in between.
    """
    shown: list[dict[str, int]] = []

    async def partitions_of(*_: object) -> dict[str, int]:
        return shown.pop(0) if len(shown) > 1 else shown[0]

    monkeypatch.setattr(health, "partitions_of", partitions_of)
    monkeypatch.setattr(health, "AGAIN_S", (0.0, 0.0, 0.0))
    return shown


async def test_a_topic_that_comes_late_is_found(looks: list[dict[str, int]]) -> None:
    looks += [{"a": 1}, {"a": 1}, {"a": 1, "b": 2}, {}]
    assert await health.look_for(SETTINGS, ["a", "b"], 30.0) == {"a": 1, "b": 2}
    assert looks == [{}]


async def test_one_that_does_not_come_is_missing(looks: list[dict[str, int]]) -> None:
    """The search ends after the last lookup, long before the startup time limit."""
    looks += [{"a": 1}]
    assert await health.look_for(SETTINGS, ["a", "b"], 30.0) == {"a": 1}
