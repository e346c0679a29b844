"""Tests of the timing of events: the recorded times are compared with those of the handlers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from famulus.observability.hot_keys import hot_keys
from famulus.processing import timing
from famulus.processing.timing import FEW, SPAN, Timing
from tests.support.in_memory.house import House, houses


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., House]]:
    """Yield a function that builds houses, and stop their task pools afterwards."""
    async with houses() as build:
        yield build


class Slow:
    """A handler that is slow for keys that begin with `slow`, and records its own times."""

    def __init__(self, wait_s: float = 0.0, block_s: float = 0.0) -> None:
        self.wait_s, self.block_s = wait_s, block_s
        self.took_s: Counter[str] = Counter()

    async def __call__(self, work: Any) -> None:
        """Wait and block if the key asks for it."""
        key, since = work.record.key.decode(), time.monotonic()
        if key.startswith("slow"):
            time.sleep(self.block_s)  # as handlers should not
            if self.wait_s:
                await asyncio.sleep(self.wait_s)
        self.took_s[key] += time.monotonic() - since  # type: ignore[assignment]  # seconds


async def carried(house: House, keys: list[str]) -> dict[str, float]:
    """Process records with these keys, and return the recorded handler time by key."""
    [processor] = house.processors
    for at in range(0, len(keys), 90):
        house.feed(processor, " ".join(keys[at : at + 90]))
        await house.until(lambda end=processor.position: processor.checkpointed_offset == end)  # type: ignore[misc]
    [found] = hot_keys({processor.tp: processor.keys}, time.time_ns() // 1_000_000, is_shown=True)
    return {key.key: key.handler_s for key in found.keys}


QUICK = [f"k{number % 7}" for number in range(40)]


@pytest.mark.parametrize(
    "slow",
    [Slow(wait_s=0.1), Slow(block_s=0.05), Slow(wait_s=0.05, block_s=0.05)],
    ids=["waits", "blocks", "both"],
)
async def test_a_slow_event_behind_quick_ones_is_in_the_sum(
    make: Callable[..., House], slow: Slow
) -> None:
    """Its whole time is counted once, and every event is counted."""
    house = make(slow)
    await carried(house, [*QUICK, "slow"])
    noted = house.carrier.counts.processing_s
    assert noted.sum == pytest.approx(slow.took_s.total(), rel=0.05)
    assert sum(noted.counts) == 41
    of_type = house.carrier.counts.types_s["Thing"]
    assert sum(of_type.counts) == 41
    assert of_type.sum == pytest.approx(noted.sum)


async def test_slow_events_that_wait_are_all_timed(make: Callable[..., House]) -> None:
    """Each has its own entry in the distribution, and their key gets their time, in any order."""
    slow, chance = Slow(wait_s=0.03, block_s=0.002), random.Random(7)
    keys = ["slow"] * 20 + QUICK * 20
    chance.shuffle(keys)
    house = make(slow)
    by_key = await carried(house, keys)
    noted = house.carrier.counts.processing_s
    assert (
        sum(
            count for bound, count in zip(noted.bounds, noted.counts, strict=False) if bound > 0.025
        )
        == 20
    )
    assert sum(noted.counts) == pytest.approx(len(keys), abs=SPAN)
    assert noted.sum == pytest.approx(slow.took_s.total(), rel=0.05)
    assert by_key["slow"] == pytest.approx(slow.took_s["slow"], rel=0.05)


async def test_slow_events_that_block_are_all_timed_once_they_were_seen(
    make: Callable[..., House],
) -> None:
    """The sum includes those before.

    The time of the key is accurate where most of its events are timed individually.
    """
    slow, chance = Slow(block_s=0.005), random.Random(7)
    keys = ["slow"] * 60 + QUICK * 10
    chance.shuffle(keys)
    house = make(slow)
    by_key = await carried(house, keys)
    assert house.carrier.counts.processing_s.sum == pytest.approx(slow.took_s.total(), rel=0.05)
    # Only a sample of the first stretch is timed.
    assert by_key["slow"] == pytest.approx(slow.took_s["slow"], rel=0.25)


def test_each_place_of_a_stretch_is_timed_as_often_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where few events arrive, each is timed."""
    monkeypatch.setattr(timing, "random", random.Random(7).random)
    unused: Any = None
    of = Timing(unused, unused)
    seen = Counter(of.choose(1_000, has_more=True)[0] for _ in range(200 * SPAN))
    assert set(seen) == set(range(SPAN))
    assert min(seen.values()) > 150
    assert max(seen.values()) < 250
    assert {of.choose(20, has_more=False)[0] for _ in range(1_000)} == set(range(20))
    assert of.choose(FEW, has_more=False) == (0, 1)
