"""What many send at once leaves in few batches, and each caller learns what became of its own."""

import asyncio
from collections.abc import Sequence

import pytest

from famulus.config import KafkaConfig
from famulus.model import Event
from famulus.producer.coalescing import MANY, CoalescingSender
from famulus.producer.producer import Producer
from famulus.producer.results import Published, UnknownTopicError
from famulus.serialization.records import ProducerRecord


class Question(Event, namespace="test.Asked", topic="questions", key="key"):
    """A request."""

    key: str


class Slow(Producer):
    """A producer that sends when it is told to, and refuses the topic `gone`."""

    def __init__(self) -> None:
        super().__init__(KafkaConfig())
        self.batches: list[list[str]] = []
        self.go = asyncio.Event()

    async def send_together(self, records: Sequence[ProducerRecord]) -> list[Published]:
        """Note them, wait, and answer with places in their order."""
        self.batches.append([(record.key or b"").decode() for record in records])
        await self.go.wait()
        if records[0].topic == "gone":
            raise UnknownTopicError("no such topic")
        return [Published(record.topic, 0, number, 0) for number, record in enumerate(records)]


async def crowd(
    together: CoalescingSender, topic: str, keys: Sequence[str]
) -> list[asyncio.Task[Published]]:
    """Callers that have all begun."""
    tasks = [asyncio.create_task(together.send(topic, key, Question(key=key), ())) for key in keys]
    await asyncio.sleep(0.01)
    return tasks


async def test_those_that_come_meanwhile_leave_together() -> None:
    """In their order, as many as may, and without those that have given up."""
    producer = Slow()
    together = CoalescingSender(producer)
    first = await crowd(together, "t", ["first"])
    keys = [f"k{number}" for number in range(MANY + 2)]
    others = await crowd(together, "t", keys)
    others[0].cancel()
    await asyncio.sleep(0)
    producer.go.set()
    places = await asyncio.gather(*first, *others[1:])
    assert producer.batches == [["first"], keys[1:MANY], keys[MANY:]]
    assert [place.offset for place in places] == [0, *range(MANY - 1), 0, 1]
    assert (await together.send("t", "later", Question(key="later"), ())).offset == 0


async def test_what_is_wrong_with_a_topic_is_told_to_its_callers_alone() -> None:
    """And the next ones are sent again."""
    producer = Slow()
    together = CoalescingSender(producer)
    await crowd(together, "t", ["first"])
    gone, there = await crowd(together, "gone", ["a", "b"]), await crowd(together, "t", ["c"])
    producer.go.set()
    for task in gone:
        with pytest.raises(UnknownTopicError, match="no such topic"):
            await task
    assert (await there[0]).topic == "t"
