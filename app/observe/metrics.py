"""What is counted, per subscription. One observer: the pipeline counts an outcome once, when it is settled."""

from collections import Counter, deque
from typing import NamedTuple, get_args

from app.wire.envelope import Outcome, Record

DUPLICATES_KEPT = 100


class Duplicate(NamedTuple):
    """A record that was not handled, because its event had been: where, and the event's time and offset then."""

    event_id: str
    partition: int
    offset: int
    first_seen_ms: int
    first_offset: int


class Counts(dict[str, int]):
    """Records since this worker started: by how they ended; attempts that failed and were `retried` or `postponed`.

    *duplicates* explains the last ones, *failures* counts dead letters by kind, handler and type of the error.
    """

    def __init__(self) -> None:
        super().__init__(dict.fromkeys((*get_args(Outcome), "retried", "postponed"), 0))
        self.failures: Counter[tuple[str, str, str]] = Counter()
        self.duplicates: deque[Duplicate] = deque(maxlen=DUPLICATES_KEPT)

    def note_failure(self, kind: str, handler: str, error: str) -> None:
        """Count a dead letter by why it is one."""
        self.failures[kind, handler, error] += 1

    def note_duplicate(self, event_id: str, record: Record, first_seen_ms: int, first_offset: int) -> None:
        """Remember why a record was not handled."""
        self.duplicates.append(Duplicate(event_id, record.partition, record.offset, first_seen_ms, first_offset))
