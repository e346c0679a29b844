"""Counters and distributions of one subscription.

An outcome is counted in one place only: by the pipeline, when it is settled.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple, get_args

from famulus.serialization.records import ConsumerRecord, Outcome

DUPLICATES_KEPT = 100
# The bounds that OpenTelemetry advises, and smaller ones: most events take microseconds.
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
    """Record that was not handled, because its event had been handled before.

    *first_seen_ms* and *first_offset* are the event time and the offset of the earlier record.
    """

    event_id: str
    partition: int
    offset: int
    first_seen_ms: int
    first_offset: int


class Distribution:
    """Histogram of values.

    Each of *counts* is the number of values up to the bound of the same index and above the
    previous bound. The last one counts the values above all bounds. The histogram of
    prometheus-client takes a lock and a lookup for each value, which costs more than the processing
    of many events.
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
        """Count *value* *count* times, without adding to the sum, which the caller does."""
        self.counts[bisect_left(self.bounds, value)] += count


class Counts(dict[str, int]):
    """Counts of one subscription since this worker started.

    The items are the records by outcome, and the failed attempts that were `retried` or
    `postponed`.

    - *duplicates*: the newest duplicates, `DUPLICATES_KEPT` at most.
    - *failures*: dead letters by kind, handler and type of the error.
    - *received*: records unpacked for processing.
    - *gone*: offsets that were deleted before they were read.
    - *by_partition*: records from the topic itself, and their bytes.
    - *processing_s*: processing times of events in seconds, see `processing.timing`.
    - *types_s*: processing times by event type.
    - *group_records*: records per checkpoint.
    - *settling_s*: seconds that writing a checkpoint took.
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
        """Count a dead letter by its cause."""
        self.failures[kind, handler, error] += 1

    def note_in(self, partition: int, records: int, size: int) -> None:
        """Count unpacked records of a partition; *size* is the bytes of their keys and values."""
        of = self.by_partition[partition]
        of[0] += records
        of[1] += size

    def note_type(self, name: str, seconds: float, count: int, all_s: float) -> None:
        """Add *count* processing times of *seconds* each for events of one type.

        *all_s* is their sum. *name* is one of a bounded number, see `Pipeline.label_of`.
        """
        of = self.types_s[name]
        of.put(seconds, count)
        of.sum += all_s

    def note_duplicate(
        self, event_id: str, record: ConsumerRecord, first_seen_ms: int, first_offset: int
    ) -> None:
        """Add *record* to the duplicates."""
        self.duplicates.append(
            Duplicate(event_id, record.partition, record.offset, first_seen_ms, first_offset)
        )
