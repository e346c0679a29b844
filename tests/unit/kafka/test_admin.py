"""Topics made just now are looked for again, for no longer than somebody waits who forgot to make them."""

import pytest

from famulus.config import KafkaConfig
from famulus.kafka import admin as health

SETTINGS = KafkaConfig()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, int]]:
    """What the cluster shows at each look; the last one stays. No time passes between them."""
    shown: list[dict[str, int]] = []

    async def partitions_of(*_: object) -> dict[str, int]:
        return shown.pop(0) if len(shown) > 1 else shown[0]

    monkeypatch.setattr(health, "partitions_of", partitions_of)
    monkeypatch.setattr(health, "AGAIN_S", (0.0, 0.0, 0.0))
    return shown


async def test_a_topic_that_comes_late_is_found(looks: list[dict[str, int]]) -> None:
    """The broker did not know it at first."""
    looks += [{"a": 1}, {"a": 1}, {"a": 1, "b": 2}, {}]
    assert await health.look_for(SETTINGS, ["a", "b"], 30.0) == {"a": 1, "b": 2}
    assert looks == [{}]


async def test_one_that_does_not_come_is_missing(looks: list[dict[str, int]]) -> None:
    """After the last look, without waiting for all of the time that a start may take."""
    looks += [{"a": 1}]
    assert await health.look_for(SETTINGS, ["a", "b"], 30.0) == {"a": 1}
