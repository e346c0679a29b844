"""Events for later: the topic in which they wait for their time.

A log is read in its order, so an event that is due in a month must not stand before one that is due
in a minute. The topic has one partition for each of a few waits. An event goes where the longest
wait is that is not longer than its time, stays there for just that wait, and goes on: to a shorter
one, at last to its own topic. All of a partition wait equally long, so its first one is its next
one, and however many events wait, nobody holds more than the first ones.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from famulus.errors import DecodeError, PermanentError
from famulus.producer.results import PublishError
from famulus.serialization.records import ConsumerRecord, ProducerRecord
from famulus.serialization.stray_records import INT64_MAX, number_in

# Of the topic's partitions; only ever add longer ones.
WAITS_S = (1, 10, 60, 600, 3_600, 6 * 3_600, 86_400)
LONGEST_H = WAITS_S[-1] / 3_600
AGAIN = 1  # the partition for what could not go to its topic
# Behind the event's own.
_HEADERS = ("famulus-schedule-topic", "famulus-schedule-due", "famulus-schedule-until")
_topic_name = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotScheduledError(PublishError, PermanentError):
    """An event cannot be published for that time. Nothing of it was sent."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """An event that waits. *record* is what goes to its topic when *due_ms* is reached.

    *until_ms* is how long it stays where it is. Times are milliseconds since 1970.
    """

    record: ProducerRecord
    due_ms: int
    until_ms: int = 0

    def to_wait(self, topic: str, now_ms: int) -> ProducerRecord:
        """The record by which it goes on waiting, in *topic*."""
        left_ms = self.due_ms - now_ms
        place = max(
            (at for at, wait_s in enumerate(WAITS_S) if wait_s * 1000 <= left_ms), default=0
        )
        return self._waiting(topic, place, min(now_ms + WAITS_S[place] * 1000, self.due_ms))

    def to_try_again(self, topic: str, now_ms: int) -> ProducerRecord:
        """The record by which it waits, in *topic*, for its own topic to take it."""
        return self._waiting(topic, AGAIN, now_ms + WAITS_S[AGAIN] * 1000)

    def _waiting(self, topic: str, place: int, until_ms: int) -> ProducerRecord:
        record = self.record
        values = (record.topic.encode(), b"%d" % self.due_ms, b"%d" % until_ms)
        headers = [*record.headers, *zip(_HEADERS, values, strict=True)]
        return ProducerRecord(topic, record.key, record.value, headers, partition=place)


def scheduled(record: ConsumerRecord, now_ms: int = INT64_MAX) -> Scheduled:
    """What waits in *record*, which is read at *now_ms*.

    Raises DecodeError when it is none that we wrote.

    It stays for the wait of its partition at most, by the record's time, which is no later than
    now: a wrong clock, or a record of somebody else, holds up nothing for longer.
    """
    own, ours = record.headers[: -len(_HEADERS)], record.headers[-len(_HEADERS) :]
    try:
        topic, due, until = (dict(ours)[name] or b"" for name in _HEADERS)
        stays_ms = WAITS_S[min(record.partition, len(WAITS_S) - 1)] * 1000
        until_ms = min(number_in(until, -INT64_MAX), min(record.timestamp, now_ms) + stays_ms)
        name = topic.decode()
        if not _topic_name.fullmatch(name):
            raise ValueError("no name of a topic")  # noqa: TRY301  # like one that is no text
        return Scheduled(
            ProducerRecord(name, record.key, record.value, own),
            number_in(due, -INT64_MAX),
            until_ms,
        )
    except (KeyError, ValueError):
        raise DecodeError("$", "its headers do not say where it goes, and when") from None


def scheduling_topic(group: str) -> str:
    """Where events that *group* has published for later wait, as named on the cluster."""
    return f"{group}.scheduled"


def due_ms_of(not_before: datetime, now_ms: int, max_h: float) -> int:
    """*not_before* in milliseconds since 1970, never earlier by the cut part of one; at most *max_h* hours ahead.

    Raises NotScheduledError when it is further, or has no time zone. What is past needs no *max_h*.
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
