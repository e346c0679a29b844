"""Stray records in the group's own topics: counted by kind, and logged at a limited rate."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import structlog

from famulus.kafka.record_batches import UnreadableBatchError
from famulus.serialization.stray_records import P, StrayRecordError, read

T = TypeVar("T")
Kind = Literal["state", "admin", "retry", "redrive", "scheduled", "replies"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EVERY_S = 30.0  # between two log lines about a topic
log = structlog.get_logger()


class Strays:
    """Counter of stray records.

    The first one of a topic is logged at once, later ones at most every `EVERY_S` seconds, with the
    number of those that were not logged. *clock* returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[Kind] = Counter(dict.fromkeys(KINDS, 0))
        self._clock = clock
        # Time of the last log line by topic: the group's own topics, so there are few.
        self._said_s: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def read(self, kind: Kind, record: P, decode: Callable[[P], T]) -> T | None:
        """Decode *record* by *decode*; count a stray record and return None for it."""
        try:
            return read(record, decode)
        except StrayRecordError as error:
            self.note(kind, error)
            return None

    def note(self, kind: Kind, error: StrayRecordError) -> None:
        """Count a stray record, and log it unless its topic was logged in the last `EVERY_S`."""
        self.counts[kind] += 1
        now_s = self._clock()
        said_s = self._said_s.get(error.topic)
        if said_s is not None and now_s - said_s < EVERY_S:
            self._unsaid[error.topic] += 1
            return
        self._said_s[error.topic] = now_s
        log.warning(
            "a record that cannot be read is left alone",
            topic=error.topic,
            partition=error.partition,
            offset=error.offset,
            why=error.reason,
            others_before=self._unsaid.pop(error.topic, 0),
        )

    def skipped(self, kind: Kind) -> Callable[[UnreadableBatchError], None]:
        """Return the callback that counts the batches that `log_reader.poll` skips."""

        def note(error: UnreadableBatchError) -> None:
            topic, partition = error.place
            self.note(kind, StrayRecordError(topic, partition, error.first_offset, error.why))

        return note


strays = Strays()  # of this process
