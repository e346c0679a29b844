"""What is counted, per subscription.

One observer: the pipeline counts an outcome once, when it is settled.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple, get_args

from famulus.serialization.records import ConsumerRecord, Outcome

DUPLICATES_KEPT = 100
# What OpenTelemetry advises, and less: most events are handled in microseconds.
PROCESSING_S = (
    0.00001,
    0.0001,
    0.001,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
)
SETTLING_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
GROUP_RECORDS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)


class Duplicate(NamedTuple):
    """A record that was not handled, because its event had been: where, and the event's time and offset then."""

    event_id: str
    partition: int
    offset: int
    first_seen_ms: int
    first_offset: int


class Distribution:
    """How large values were: *counts* has how many were at most each of *bounds*, and above the one before; then more.

    Prometheus-client's own takes a lock and a lookup for each value, which is more than many an
    event costs.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def put(self, value: float, count: int) -> None:
        """Count *value* as often as *count* says. Their sum is noted by whoever knows it."""
        self.counts[bisect_left(self.bounds, value)] += count


class Counts(dict[str, int]):
    """Records since this worker started: by how they ended; attempts that failed and were `retried` or `postponed`.

    *duplicates* explains the last ones, *failures* counts dead letters by kind, handler and type of
    the error. *received* is how many were unpacked to be carried, *by_partition* how many came from
    the topic itself, and their bytes, *gone* how many offsets were deleted unread. *processing_s*
    is how long events were in hand, see `engine.timing`, *types_s* the same by type.
    *group_records* and *settling_s* are of all groups: how many records ended in one, and how long
    settling it took.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((*get_args(Outcome), "retried", "postponed"), 0))
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self.duplicates: deque[Duplicate] = deque(maxlen=DUPLICATES_KEPT)
        self.received = 0
        self.gone = 0
        self.by_partition: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        self.processing_s = Distribution(PROCESSING_S)
        self.types_s: defaultdict[str, Distribution] = defaultdict(
            lambda: Distribution(PROCESSING_S)
        )
        self.group_records = Distribution(GROUP_RECORDS)
        self.settling_s = Distribution(SETTLING_S)

    def note_failure(self, kind: str, handler: str, error: str) -> None:
        """Count a dead letter by why it is one."""
        self.failures[kind, handler, error] += 1

    def note_in(self, partition: int, records: int, size: int) -> None:
        """Note that so many records of a partition were unpacked, with keys and values of *size* bytes together."""
        of = self.by_partition[partition]
        of[0] += records
        of[1] += size

    def note_type(self, name: str, seconds: float, count: int, all_s: float) -> None:
        """Note that *count* events of a type were in hand for *seconds* each, for *all_s* together.

        *name* is one of few, see `Pipeline.label_of`.
        """
        of = self.types_s[name]
        of.put(seconds, count)
        of.sum += all_s

    def note_duplicate(
        self, event_id: str, record: ConsumerRecord, first_seen_ms: int, first_offset: int
    ) -> None:
        """Remember why a record was not handled."""
        self.duplicates.append(
            Duplicate(event_id, record.partition, record.offset, first_seen_ms, first_offset)
        )
