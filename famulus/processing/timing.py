"""How long the events of one partition are in hand: each that waits is timed, of the others a fair sample.

Two looks at the clock for each event would cost what a tenth of many an event costs. For an event
that waits the clock is looked at anyway. Those that do not are carried one after the other, in a
stretch that ends when an event waits or nothing is left: how long it took together is known, so
sums are right, and now and then one event, chosen at random before it begins, stands for the others
in the distribution. Where few come, or where they take long, each is timed.
"""

import time
from dataclasses import dataclass, field
from random import random

from famulus.observability.hot_keys import KeyWatch
from famulus.processing.pipeline import Pipeline, WorkItem
from famulus.serialization.records import ConsumerRecord, Outcome
from famulus.state.partition_state import PartitionState

SPAN = 500  # events, of which one is timed
FEW = 8  # of a stretch of at most so many each is timed
# And of every one after a stretch whose events took as long: the clock costs a hundredth of that.
SLOW_S = 0.0001
NEVER = 1 << 30


@dataclass(slots=True)
class Stretch:
    """What one task carries without waiting, and the event that waits at its end.

    Times are of the monotonic clock.
    """

    began_at: float = 0.0
    timed_at: float = 0.0  # when the event began that is timed, 0 while none is
    waits_since: float = 0.0  # when the event waited first that is held, 0 while none is
    # Events that did not wait, and their seconds.
    samples: list[tuple[ConsumerRecord, float]] = field(default_factory=list)


class Timing:
    """Notes how long events were in hand, in the metrics of their topic and for their keys."""

    def __init__(self, pipeline: Pipeline, keys: KeyWatch) -> None:
        self._pipeline, self._keys = pipeline, keys
        self._usual_s = 0.0  # what an event takes that does not wait, by the last stretch
        self._left = 0  # events that none was timed for
        self._left_s = 0.0
        self._last: ConsumerRecord | None = None  # the last one of them

    def choose(self, waiting: int, *, has_more: bool) -> tuple[int, int]:
        """Which event of the next stretch is the first to be timed, from 0, and how far apart further ones are.

        *waiting* are unpacked; *has_more*: there are more behind them.
        """
        if self._usual_s > SLOW_S or (waiting <= FEW and not has_more):
            return 0, 1
        # No secret.
        return int(random() * (SPAN if has_more or waiting > SPAN else waiting)), NEVER  # noqa: S311

    async def carry(self, stretch: Stretch, work: WorkItem, state: PartitionState) -> Outcome:
        """What the pipeline's `carry` does, and time it, whatever came of it."""
        stretch.timed_at = time.monotonic()
        try:
            return await self._pipeline.carry(work, state)
        finally:
            if not stretch.waits_since:
                stretch.samples.append((work[1], time.monotonic() - stretch.timed_at))
                stretch.timed_at = 0.0

    def passed(self, stretch: Stretch, count: int, now: float, last: WorkItem | None) -> None:
        """Note *count* events of *stretch* that did not wait, *last* at its end, *now*."""
        if count and last is not None:
            self._last = last[1]
            self._usual_s = (seconds := now - stretch.began_at) / count
            self._left += count
            self._left_s += seconds
        if stretch.samples:
            self._tell(stretch)

    def rests(self, stretch: Stretch) -> None:
        """Nothing more is there for now: the last event stands for those that none was timed for."""
        if self._left:
            self._tell(stretch)

    def waited(self, stretch: Stretch, record: ConsumerRecord, before: int, now: float) -> None:
        """Note an event that waited and is in hand no more *now*, and *before* it in *stretch* so many that did not.

        The next stretch begins.
        """
        first_s = stretch.waits_since - stretch.began_at  # of the stretch, until the event waited
        if stretch.samples:
            self._usual_s = sum(own_s for _, own_s in stretch.samples) / len(stretch.samples)
        if stretch.timed_at:
            own_s = stretch.waits_since - stretch.timed_at
        else:
            own_s = max(first_s - before * self._usual_s, 0.0) if before else first_s
        whole_s, counts = own_s + now - stretch.waits_since, self._pipeline.counts
        counts.processing_s.note(whole_s)
        counts.note_type(self._pipeline.label_of(record), whole_s, 1, whole_s)
        self._keys.timed(record.key, whole_s, 1)
        if before:
            self._left += before
            self._last = self._last or record
            self._left_s += max(first_s - own_s, 0.0)
            if stretch.samples:
                self._tell(stretch)
        stretch.timed_at = stretch.waits_since = 0.0
        stretch.began_at = now

    def _tell(self, stretch: Stretch) -> None:
        """Count all that none was timed for: each as the samples, their sum as it was seen."""
        counts, samples = self._pipeline.counts, stretch.samples
        if not samples and self._last is not None:
            samples = [(self._last, self._left_s / self._left)]
        self._last = None
        if not (self._left and samples):
            return
        counts.processing_s.sum += self._left_s
        weight, over = divmod(self._left, len(samples))
        for number, (record, own_s) in enumerate(samples):
            stands_for = weight + (number < over)
            counts.processing_s.put(own_s, stands_for)
            self._keys.timed(record.key, own_s, stands_for)
            # Of a topic with one type alone the sum is known.
            its_s = own_s * stands_for if self._pipeline.has_types else self._left_s / len(samples)
            counts.note_type(self._pipeline.label_of(record), own_s, stands_for, its_s)
        self._left, self._left_s = 0, 0.0
        stretch.samples.clear()
