"""Sends what many callers send at once in few record batches: a batch for each would be waited for one after the other.

The first one leaves at once; those that come while it is on its way leave together after it.
"""

import asyncio
from collections.abc import Sequence
from itertools import groupby

from faust import Record as Event

from famulus.producer.producer import Producer
from famulus.producer.results import Published
from famulus.serialization.records import Headers, ProducerRecord

MANY = 1_000  # that leave together
Waiting = tuple[ProducerRecord, "asyncio.Future[Published]"]


class CoalescingSender:
    """The way to *producer* for callers that come in crowds."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._next: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def send(self, topic: str, key: object, event: Event, headers: Headers) -> Published:
        """Send *event* and wait until the cluster has it.

        Arguments and errors are those of `Producer.produce`.
        """
        record = await self._producer.prepared(topic, key, event, headers)
        sent: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._next.append((record, sent))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="together")
        return await sent

    async def _run(self) -> None:
        while self._next:
            chosen, self._next = self._next[:MANY], self._next[MANY:]
            left = [each for each in chosen if not each[1].done()]  # whoever gave up sends nothing
            by_topic = sorted(left, key=lambda each: each[0].topic)
            for _, group in groupby(by_topic, lambda each: each[0].topic):
                await self._send(list(group))

    async def _send(self, waiting: Sequence[Waiting]) -> None:
        """Send records of one topic.

        None of them is too large, so what is wrong with one is wrong with all.
        """
        try:
            published = await self._producer.send_together([record for record, _ in waiting])
        except Exception as error:  # noqa: BLE001  # each caller is told
            for _, sent in waiting:
                if not sent.done():
                    sent.set_exception(error)
            return
        for (_, sent), place in zip(waiting, published, strict=True):
            if not sent.done():
                sent.set_result(place)
