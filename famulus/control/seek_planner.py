"""Plan seeks: resolve what an operator asks for to offsets, and request them.

The owner of a partition executes its seek, see `consumer.seek_executor`. Until then the request
stays in the admin topic, so it survives rebalances, restarts and kills.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from uuid import uuid4

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from famulus.config import KafkaConfig
from famulus.control.admin_topic import now_text
from famulus.control.pauses import NOTE_MAX, PauseChange, PauseScope, admin_topic, audit_record
from famulus.control.seeks import SeekId, SeekRequest
from famulus.errors import ConfigError, UnavailableError
from famulus.kafka.admin import partitions_of
from famulus.kafka.group_members import committed_of
from famulus.kafka.log_reader import log_consumer
from famulus.observability.logs import described
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord


class SeekTarget(NamedTuple):
    """Where to continue reading; exactly one field is set.

    *time_ms* (since 1970) is the first record of that time or later. *shift_by* is relative to the
    committed offset.
    """

    edge: Literal["beginning", "end"] | None = None
    offset: int | None = None
    time_ms: int | None = None
    shift_by: int | None = None


@dataclass(frozen=True)
class PlannedSeek:
    """A seek of one partition to offset *to*.

    The log has the offsets from *begin* to before *end*. *committed* is None without a commit.
    """

    place: TopicPartition
    begin: int
    end: int
    committed: int | None
    to: int

    @property
    def again(self) -> int:
        """Return how many records are read again; a negative number is skipped."""
        return (
            self.begin if self.committed is None else min(max(self.committed, self.begin), self.end)
        ) - self.to

    def as_json(self) -> dict[str, object]:
        """Return the seek as JSON values."""
        return {
            "topic": self.place.topic,
            "partition": self.place.partition,
            "begin": self.begin,
            "end": self.end,
            "committed": self.committed,
            "to": self.to,
            "again": max(self.again, 0),
            "skipped": max(-self.again, 0),
        }


def seek_target(**asked: str | int | None) -> SeekTarget:
    """Return the target for exactly one of the fields of `SeekTarget`; a `time` is text.

    Raises ValueError unless exactly one is given, or when the time is not valid.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"say one of {', '.join(asked)}")
    [(name, value)] = given.items()
    if name == "time":
        return SeekTarget(time_ms=time_ms_of(str(value)))
    return SeekTarget(**{name: value})  # type: ignore[arg-type]


def time_ms_of(text: str) -> int:
    """Return an ISO 8601 time as milliseconds since 1970; UTC unless it has a time zone.

    Raises ValueError when *text* is not a time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time such as 2026-01-31T12:00:00+00:00") from None
    return round((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1000)


async def planned(
    settings: KafkaConfig,
    topics: Iterable[str],
    target: PauseScope,
    where: SeekTarget,
    timeout_s: float,
) -> list[PlannedSeek]:
    """Return the seek to *where* for each partition of *topics* that *target* covers.

    *topics* are named as on the cluster. Raises ConfigError when an offset lies outside the log or
    is given for several partitions, and when there is no partition. Raises UnavailableError when no
    broker answers.
    """
    counts = await partitions_of(settings, topics, timeout_s)
    places = [
        TopicPartition(topic, number)
        for topic, count in sorted(counts.items())
        for number in range(count)
        if target.covers(PauseScope(topic, number))
    ]
    if not places:
        raise ConfigError(
            f"there is no partition of {target}; `faust -A app topics apply` creates what "
            "is missing"
        )
    if where.offset is not None and len(places) > 1:
        raise ConfigError(
            f"an offset is of one partition, and {target} has {len(places)}: say which"
        )
    committed = await committed_of(settings, places, timeout_s)
    spans, at_time = await _looked(settings, places, where.time_ms, timeout_s)
    return [
        PlannedSeek(
            at,
            begin,
            end,
            committed[at],
            _to(at, (begin, end), committed[at], at_time.get(at, end), where),
        )
        for at, (begin, end) in spans.items()
    ]


async def _looked(
    settings: KafkaConfig, places: Sequence[TopicPartition], time_ms: int | None, timeout_s: float
) -> tuple[dict[TopicPartition, tuple[int, int]], dict[TopicPartition, int]]:
    """Return the begin and end of each log, and the first offset of *time_ms* or later.

    Partitions without such a record have no entry in the second mapping. Raises UnavailableError
    when no broker answers within *timeout_s* seconds.
    """
    consumer: AIOKafkaConsumer = log_consumer(settings)
    try:
        async with asyncio.timeout(timeout_s):
            try:
                await consumer.start()
                consumer.assign(places)
                begins, ends = (
                    await consumer.beginning_offsets(places),
                    await consumer.end_offsets(places),
                )
                asked = dict.fromkeys(places, time_ms) if time_ms is not None else {}
                found = await consumer.offsets_for_times(asked) if asked else {}
            finally:
                await consumer.stop()
    except (TimeoutError, KafkaError, OSError) as error:
        raise UnavailableError(
            f"the Kafka broker at {settings.bootstrap_servers} does not say where the topics "
            "begin and end "
            f"({described(error)})"
        ) from error
    return (
        {at: (begins[at], ends[at]) for at in places},
        {at: there.offset for at, there in found.items() if there is not None},
    )


def _to(
    at: TopicPartition,
    span: tuple[int, int],
    committed: int | None,
    at_time: int,
    where: SeekTarget,
) -> int:
    begin, end = span
    if where.offset is not None:
        if not begin <= where.offset <= end:
            raise ConfigError(
                f"{at.topic}/{at.partition} has the offsets {begin} to {end}, not {where.offset}"
            )
        return where.offset
    if where.shift_by is not None:
        return min(max((begin if committed is None else committed) + where.shift_by, begin), end)
    if where.time_ms is not None:
        return at_time
    return begin if where.edge == "beginning" else end


async def order(
    producer: Producer, group: str, moves: Sequence[PlannedSeek], by: str, why: str
) -> int:
    """Request the seeks in *moves* and return the offset to wait for.

    The seeks are visible once the admin topic is read up to that offset. Raises what the producer
    raises.
    """
    identity, at, note = uuid4().hex[:12], now_text(), why[:NOTE_MAX]
    orders = {
        SeekId(m.place.topic, m.place.partition, identity): SeekRequest(m.to, by, at, note)
        for m in moves
    }
    audits = [
        audit_record(
            group, PauseChange("seek", f"{name.topic}/{name.partition}", by, at, note, of.offset)
        )
        for name, of in orders.items()
    ]
    await producer.send_together(audits)  # first, so that no seek goes without its audit record
    records = [_record(group, name, msgspec.json.encode(of)) for name, of in orders.items()]
    return (await producer.send_together(records))[-1].offset + 1


async def done(producer: Producer, group: str, names: Iterable[SeekId]) -> None:
    """Write tombstones for seeks that are executed or superseded.

    Raises what the producer raises.
    """
    if records := [_record(group, name, None) for name in names]:
        await producer.send_together(records)


def _record(group: str, name: SeekId, value: bytes | None) -> ProducerRecord:
    return ProducerRecord(admin_topic(group), str(name).encode(), value, partition=0)


def consequences(moves: Sequence[PlannedSeek], remembers: Mapping[str, float | None]) -> list[str]:
    """Return descriptions of what the seeks mean for records and state.

    *remembers* has, by topic, the number of seconds for which the state recognises events, None for
    a state that recognises no events. Topics without state are not in it.
    """
    said = []
    for topic in sorted({move.place.topic for move in moves}):
        again = sum(max(move.again, 0) for move in moves if move.place.topic == topic)
        skipped = sum(max(-move.again, 0) for move in moves if move.place.topic == topic)
        if skipped:
            said.append(f"{topic}: {skipped} records are skipped, no handler gets them")
        if not again:
            continue
        if topic not in remembers:
            said.append(f"{topic}: {again} records are handled again")
        elif (window_s := remembers[topic]) is None:
            said.append(
                f"{topic}: {again} records are handled again, and tables count them twice; "
                f"`faust -A app state replay --topic {topic}` makes the tables anew"
            )
        else:
            said.append(
                f"{topic}: {again} records are read again; events that the state remembers (for "
                f"{window_s / 3600:g} h) are duplicates and not handled; to handle them anew "
                "on empty tables: "
                f"`faust -A app state replay --topic {topic}`"
            )
    return said
