"""The feed: a thread that writes the payments, as far as it is allowed to, and watches the group settle them."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from aiokafka.errors import KafkaError

from famulus.config import KafkaConfig
from famulus.errors import OperatingError
from famulus.kafka.admin import admin_of
from famulus.kafka.group_admin import GroupAdmin
from famulus.producer.producer import Producer
from torture.load import Payment, record_of

CHUNK = 100  # records sent together
PAUSE_S = 0.02  # between two chunks, so that a slice of the topic lasts for many groups
ANSWER_S = 20.0
END_S = 30.0
WATCH_S = 3_600.0  # with one connection


class FeedError(OperatingError):
    """The payments could not be written."""


class Feed:
    """Writes *made* to *topic*.

    *allowed* and *sent* count records; *settled* and *total* are the group's progress.

    *beside* counts the records that somebody else wrote into the topic, less those that went away
    with an earlier topic of that name. *others* are topics that the group must have read to their
    ends as well.
    """

    def __init__(self, kafka: KafkaConfig, topic: str, made: Sequence[Payment]) -> None:
        self.allowed = self.sent = self.settled = self.total = 0
        self.beside = 0
        self.others: Sequence[str] = ()
        self.left_elsewhere = 0  # records of the other topics
        self.moved_at = time.monotonic()  # when the progress changed last
        # Partitions with work: since when nothing of it was settled.
        self.lagging_since: dict[int, float] = {}
        self.made = made
        self._kafka = kafka
        self._topic = topic
        self._committed: dict[int, int] = {}
        self._failure: Exception | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to watch, and to write when something is allowed."""
        self._thread.start()

    def stop(self) -> None:
        """End it, whether it has written everything or not."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(END_S)

    def check(self) -> None:
        """Raise FeedError when the thread could not go on."""
        if self._failure is not None:
            raise FeedError(
                f"the payments could not be written: {self._failure!r}"
            ) from self._failure

    @property
    def is_settled(self) -> bool:
        """Whether everything that is allowed was written and settled."""
        return self.allowed == self.sent and not self.left

    @property
    def left(self) -> int:
        """How many records that were written are not settled."""
        return self.sent + self.beside - self.settled + self.left_elsewhere

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception as error:  # told by `check`
            self._failure = error

    async def _work(self) -> None:
        tasks = {asyncio.create_task(self._write()), asyncio.create_task(self._watch())}
        try:
            while not self._stopping.is_set():
                done, _ = await asyncio.wait(
                    tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:  # neither ends by itself, so it failed
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        async with Producer(self._kafka) as producer:
            while True:
                chunk = self.made[self.sent : min(self.allowed, self.sent + CHUNK)]
                if chunk:
                    await producer.send_all([record_of(payment, self._topic) for payment in chunk])
                    self.sent += len(chunk)
                await asyncio.sleep(PAUSE_S)

    async def _watch(self) -> None:
        while True:
            # The broker is away, at times on purpose.
            with suppress(KafkaError, OperatingError, OSError, TimeoutError):
                async with admin_of(self._kafka, WATCH_S) as admin:
                    asker = GroupAdmin(admin, self._kafka.consumer_config.group_id)
                    while True:
                        async with asyncio.timeout(ANSWER_S):
                            await self._look(asker)
                        await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)

    async def _look(self, asker: GroupAdmin) -> None:
        places = [
            at for at in await asker.leaders() if at.topic == self._topic or at.topic in self.others
        ]
        begins, ends = (
            await asker.offsets(places, "earliest"),
            await asker.offsets(places, "latest"),
        )
        if not len(places) == len(begins) == len(ends):
            return
        committed = await asker.committed()
        settled = {
            at: min(max(committed.get(at, begins[at]), begins[at]), ends[at]) for at in places
        }
        mine = {at.partition: (settled[at], ends[at]) for at in places if at.topic == self._topic}
        now = time.monotonic()
        for partition, (offset, end) in mine.items():
            if offset == end:
                self.lagging_since.pop(partition, None)
            elif partition not in self.lagging_since or self._committed.get(partition) != offset:
                self.lagging_since[partition] = now
            self._committed[partition] = offset
        elsewhere = sum(ends[at] - settled[at] for at in places if at.topic != self._topic)
        progress = (
            sum(offset for offset, _ in mine.values()),
            sum(end for _, end in mine.values()),
            elsewhere,
        )
        if progress != (self.settled, self.total, self.left_elsewhere):
            self.settled, self.total, self.left_elsewhere = progress
            self.moved_at = now
