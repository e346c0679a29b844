"""Layout of the topic in which events wait for the time they were published for.

A log is read in order, so an event that is due in a month must not stand before one that is due in
a minute. The topic has one partition for each of a few wait times. An event goes to the partition
with the longest wait that does not exceed the time left. After exactly that wait it moves on to a
shorter one, and at last to its own topic. All events of a partition wait equally long, so its first
one is always the next one due. A worker therefore keeps only the first events in memory, however
many wait.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from famulus.errors import DecodeError, PermanentError
from famulus.producer.results import PublishError
from famulus.serialization.records import ConsumerRecord, ProducerRecord
from famulus.serialization.stray_records import INT64_MAX, number_in

# Wait time of each partition, by its number; only longer ones may be added.
WAITS_S = (1, 10, 60, 600, 3_600, 6 * 3_600, 86_400)
LONGEST_H = WAITS_S[-1] / 3_600
AGAIN = 1  # the partition for events that their topic did not take
# These headers follow the event's own.
_HEADERS = ("famulus-schedule-topic", "famulus-schedule-due", "famulus-schedule-until")
_topic_name = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotScheduledError(PublishError, PermanentError):
    """An event cannot be published for that time. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An event that waits.

    *record* goes to its topic when *due_ms* is reached. *until_ms* is the end of the wait in its
    present partition. Times are in milliseconds since 1970.
    """

    record: ProducerRecord
    due_ms: int
    until_ms: int = 0

    def to_wait(self, topic: str, now_ms: int) -> ProducerRecord:
        """Return the record by which the event waits on in *topic*."""
        left_ms = self.due_ms - now_ms
        place = max(
            (at for at, wait_s in enumerate(WAITS_S) if wait_s * 1000 <= left_ms), default=0
        )
        return self._waiting(topic, place, min(now_ms + WAITS_S[place] * 1000, self.due_ms))

    def to_try_again(self, topic: str, now_ms: int) -> ProducerRecord:
        """Return the record by which a due event waits in *topic* for another try."""
        return self._waiting(topic, AGAIN, now_ms + WAITS_S[AGAIN] * 1000)

    def _waiting(self, topic: str, place: int, until_ms: int) -> ProducerRecord:
        record = self.record
        values = (record.topic.encode(), b"%d" % self.due_ms, b"%d" % until_ms)
        headers = [*record.headers, *zip(_HEADERS, values, strict=True)]
        return ProducerRecord(topic, record.key, record.value, headers, partition=place)


def scheduled(record: ConsumerRecord, now_ms: int = INT64_MAX) -> Scheduled:
    """Return the waiting event in *record*, which is read at *now_ms*.

    Raises DecodeError when Famulus has not written the record. The event waits for the time of its
    partition at most, counted from the record's timestamp or from *now_ms*, whichever is earlier. A
    wrong clock or a foreign record therefore blocks the partition for no longer than that.
    """
    own, ours = record.headers[: -len(_HEADERS)], record.headers[-len(_HEADERS) :]
    try:
        topic, due, until = (dict(ours)[name] or b"" for name in _HEADERS)
        stays_ms = WAITS_S[min(record.partition, len(WAITS_S) - 1)] * 1000
        until_ms = min(number_in(until, -INT64_MAX), min(record.timestamp, now_ms) + stays_ms)
        name = topic.decode()
        if not _topic_name.fullmatch(name):
            raise ValueError("no name of a topic")  # caught below, like a name that is not UTF-8
        return Scheduled(
            ProducerRecord(name, record.key, record.value, own),
            number_in(due, -INT64_MAX),
            until_ms,
        )
    except (KeyError, ValueError):
        raise DecodeError("$", "its headers do not say where it goes, and when") from None


def scheduling_topic(group: str) -> str:
    """Return the topic for scheduled events of *group*, as named on the cluster."""
    return f"{group}.scheduled"


def due_ms_of(not_before: datetime, now_ms: int, max_h: float) -> int:
    """Return *not_before* in milliseconds since 1970, rounded up.

    Raises NotScheduledError when it is more than *max_h* hours ahead, or has no time zone. A time
    that has passed is allowed for any *max_h*.
    """
    if not_before.tzinfo is None:
        raise NotScheduledError(
            "not_before has no time zone, so nobody knows which moment it is: datetime.now(UTC) has"
        )
    due_ms = -(-(not_before - _EPOCH) // timedelta(milliseconds=1))
    if due_ms <= now_ms:
        return due_ms
    if not max_h:
        raise NotScheduledError(
            "events cannot be published for later: set Kafka.ScheduleMaxH, for how many hours ahead"
        )
    if due_ms - now_ms > max_h * 3_600_000:
        raise NotScheduledError(
            f"not_before is more than {max_h:g} hours ahead (Kafka.ScheduleMaxH)"
        )
    return due_ms
