"""The network between workers and broker: connections end, answers are lost, late or in pieces, nothing passes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torture.faults import Fault, Hit, always
from torture.frames import COORDINATOR, Api, Side
from torture.proxy import Deed, Rule, Weather
from torture.stage import SESSION_MS, Stage

DELIVERY_MS = 5_000
SETTINGS = {"KAFKA__PRODUCERCONFIG__DELIVERYTIMEOUTMS": str(DELIVERY_MS)}


@contextmanager
def _closed(stage: Stage, *, is_reset: bool) -> Iterator[Hit]:
    number = stage.cluster.proxy.close(is_reset=is_reset)
    yield lambda: number > 0


@contextmanager
def _in(weather: Weather, stage: Stage) -> Iterator[Hit]:
    stage.cluster.proxy.weather = weather
    try:
        if weather.is_refusing:
            stage.cluster.proxy.close(is_reset=True)
        yield always
    finally:
        stage.cluster.proxy.clear()


@contextmanager
def ruled(stage: Stage, rule: Rule) -> Iterator[Hit]:
    """Have the proxy heed *rule* meanwhile."""
    stage.cluster.proxy.rules = [rule]
    try:
        yield lambda: rule.hits > 0
    finally:
        stage.cluster.proxy.clear()
        if rule.deed == "swallow" and rule.times > 1:
            # Else clients wait for answers for their whole limit.
            stage.cluster.proxy.close(is_reset=True)


def _weather(kind: str, weather: Weather, lasts_s: float, at_most: int = 1_000_000) -> Fault:
    return Fault(kind, lambda stage: _in(weather, stage), lasts_s, at_most)


def _frames(
    kind: str,
    deed: Deed,
    side: Side,
    *,
    apis: frozenset[int],
    times: int,
    lasts_s: float,
    hold_s: float = 0.0,
) -> Fault:
    def hurting(stage: Stage) -> AbstractContextManager[Hit]:
        return ruled(stage, Rule(deed, side, apis, times, hold_s))

    return Fault(kind, hurting, lasts_s)


PRODUCE, FETCH, COMMIT = (
    frozenset({Api.PRODUCE}),
    frozenset({Api.FETCH}),
    frozenset({Api.OFFSET_COMMIT}),
)
FAULTS = (
    Fault("connections reset", lambda stage: _closed(stage, is_reset=True), 0.5),
    Fault("connections closed", lambda stage: _closed(stage, is_reset=False), 0.5),
    _weather("connections refused", Weather(is_refusing=True), 2.0),
    _weather("black hole", Weather(is_still=True), 2.0),
    _weather(
        "black hole for longer than a session",
        Weather(is_still=True),
        SESSION_MS / 1000 + 3,
        at_most=1,
    ),
    _weather("latency of half a second", Weather(latency_s=0.25), 3.0),
    _weather("frames in pieces", Weather(is_splitting=True), 2.0),
    _weather("throttled connections", Weather(bytes_per_s=60_000), 3.0),
    _frames(
        "acknowledgement lost with its connection",
        "reset",
        "answer",
        apis=PRODUCE,
        times=2,
        lasts_s=0.5,
    ),
    _frames("acknowledgement swallowed", "swallow", "answer", apis=PRODUCE, times=1, lasts_s=0.5),
    _frames(
        "batch lost with its connection", "reset", "request", apis=PRODUCE, times=2, lasts_s=0.5
    ),
    _frames("batch swallowed", "swallow", "request", apis=PRODUCE, times=1, lasts_s=0.5),
    _frames(
        "acknowledgement late", "hold", "answer", apis=PRODUCE, times=2, lasts_s=0.5, hold_s=2.0
    ),
    _frames("fetched batch late", "hold", "answer", apis=FETCH, times=4, lasts_s=1.0, hold_s=2.0),
    _frames(
        "commit lost with its connection", "reset", "request", apis=COMMIT, times=3, lasts_s=1.0
    ),
    _frames("coordinator away", "swallow", "request", apis=COORDINATOR, times=1_000, lasts_s=3.0),
)
