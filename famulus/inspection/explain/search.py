"""Search for the events of a question, with the answer for each."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.control.pauses import Pauses
from famulus.deadletter.index import text_of
from famulus.errors import ConfigError, OperatingError
from famulus.inspection.deadletters.reader import Reader
from famulus.inspection.explain.answers import Answer, Facts, answer_of
from famulus.inspection.explain.facts import FactCollector, ReadLimits
from famulus.processing.subscription import Subscription
from famulus.serialization.records import event_id_of

SHOWN = 20  # events answered at most, the newest ones


@dataclass(frozen=True)
class Question:
    """Selection of events: the one at a *place*, or those with a key or an id.

    *place* is partition and offset. Of several events the newest are selected.
    """

    subscription: Subscription
    place: tuple[int, int] | None = None
    key: str | None = None
    event_id: str | None = None


async def explained(
    app: Famulus, reader: Reader, question: Question, pauses: Pauses, reach: ReadLimits
) -> AsyncIterator[tuple[Facts, Answer]]:
    """Yield the facts of each selected event and the answer, the oldest event first.

    Raises OperatingError when no event matches, ConfigError when the partition does not exist,
    TooMuchError when more records would have to be read than *reach* allows, and UnavailableError.
    """
    topic = question.subscription.topic_name
    count = (await reader.partitions(topic))[topic]
    if question.place is not None and question.place[0] >= count:
        raise ConfigError(f"topic {topic} has {count} partitions, the first is 0")
    places = (
        [question.place] if question.place else await _found(reader, topic, count, question, reach)
    )
    gathering = FactCollector(app, reader, question.subscription, pauses, reach)
    for place in places:
        facts = await gathering.of(*place)
        yield facts, answer_of(facts, time.time_ns() // 1_000_000)


async def _found(
    reader: Reader, topic: str, partitions: int, question: Question, reach: ReadLimits
) -> list[tuple[int, int]]:
    """Return the places of the newest events that have the key or the event id."""
    found: list[tuple[int, int, int]] = []
    for partition in range(partitions):
        at = TopicPartition(topic, partition)
        _, end = await reader.span(at)
        async for record in reader.between(at, max(end - reach.events, 0), end):
            if question.key is not None:
                is_meant = record.key is not None and text_of(record.key) == question.key
            else:
                its_id = event_id_of(record)
                is_meant = question.event_id in (its_id, its_id.partition("#")[2])
            if is_meant:
                found.append((record.timestamp, partition, record.offset))
    if not found:
        raise OperatingError(
            f"none of the newest {reach.events:,} events of each partition of {topic} is like that"
        )
    return [(partition, offset) for _, partition, offset in sorted(found)[-SHOWN:]]
