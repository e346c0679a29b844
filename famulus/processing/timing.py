"""Processing times of the events of one partition, measured or sampled.

Reading the clock twice for each event would cost about a tenth of the time of a cheap event. Events
that suspend are all timed, since the clock is read for them anyway. Other events are processed one
after the other in a stretch, which ends when an event suspends or when none is left. The duration
of the whole stretch is known, so sums are exact. For the distribution, one event, chosen at random
before it begins, stands for the others. When events are few or slow, each one is timed.
"""

import time
from dataclasses import dataclass, field
from random import random

from famulus.observability.hot_keys import KeyWatch
from famulus.processing.pipeline import Pipeline, WorkItem
from famulus.serialization.records import ConsumerRecord, Outcome
from famulus.state.partition_state import PartitionState

SPAN = 500  # one of so many events is timed
FEW = 8  # in a stretch of at most so many events, each one is timed
# After a stretch whose events took longer than this, each one is timed: reading the clock costs a
# hundredth of it.
SLOW_S = 0.0001
NEVER = 1 << 30


@dataclass(slots=True)
class Stretch:
    """A run of events that one task processes without suspending, up to one that suspends.

    Times are seconds of the monotonic clock.
    """

    began_at: float = 0.0
    timed_at: float = 0.0  # when the event that is being timed began, 0 for none
    waits_since: float = 0.0  # when the held event suspended first, 0 for none
    # Timed events that did not suspend, and their seconds.
    samples: list[tuple[ConsumerRecord, float]] = field(default_factory=list)


class Timing:
    """Records processing times in the metrics of the topic and for the keys of the partition."""

    def __init__(self, pipeline: Pipeline, keys: KeyWatch) -> None:
        self._pipeline, self._keys = pipeline, keys
        self._usual_s = 0.0  # mean time of events that do not suspend, from the last stretch
        self._left = 0  # events that are not in the metrics yet
        self._left_s = 0.0  # and their time
        self._last: ConsumerRecord | None = None  # the last of those

    def choose(self, waiting: int, *, has_more: bool) -> tuple[int, int]:
        """Return the index of the first event to time in the next stretch, and the step.

        The index counts from 0. Further events are timed at every step after it. *waiting* events
        are unpacked; *has_more* means that there are more behind them.
        """
        if self._usual_s > SLOW_S or (waiting <= FEW and not has_more):
            return 0, 1
        # The random number is no secret.
        return int(random() * (SPAN if has_more or waiting > SPAN else waiting)), NEVER

    async def carry(self, stretch: Stretch, work: WorkItem, state: PartitionState) -> Outcome:
        """Process one event as the pipeline's `carry` does, and time it, even if it raises."""
        stretch.timed_at = time.monotonic()
        try:
            return await self._pipeline.carry(work, state)
        finally:
            if not stretch.waits_since:
                stretch.samples.append((work[1], time.monotonic() - stretch.timed_at))
                stretch.timed_at = 0.0

    def passed(self, stretch: Stretch, count: int, now: float, last: WorkItem | None) -> None:
        """Note *count* events of *stretch* that did not suspend, of which *last* is the last.

        *now* is the end of the stretch.
        """
        if count and last is not None:
            self._last = last[1]
            self._usual_s = (seconds := now - stretch.began_at) / count
            self._left += count
            self._left_s += seconds
        if stretch.samples:
            self._tell(stretch)

    def rests(self, stretch: Stretch) -> None:
        """Record the remaining events when no more are waiting.

        The last event stands for all if none of them was timed.
        """
        if self._left:
            self._tell(stretch)

    def waited(self, stretch: Stretch, record: ConsumerRecord, before: int, now: float) -> None:
        """Note an event that suspended and has ended or was deferred *now*.

        *before* is the number of events before it in *stretch*, which did not suspend. The next
        stretch begins.
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
        """Record all events that are not in the metrics yet.

        The samples stand for all events in the distribution; the sum is the measured one.
        """
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
            # With a single type, its sum is known exactly.
            its_s = own_s * stands_for if self._pipeline.has_types else self._left_s / len(samples)
            counts.note_type(self._pipeline.label_of(record), own_s, stands_for, its_s)
        self._left, self._left_s = 0, 0.0
        stretch.samples.clear()
