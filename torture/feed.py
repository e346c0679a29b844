"""The feed: a thread that writes the payments, as far as it is allowed to, and watches the group settle them."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from aiokafka.errors import KafkaError

from app.config import KafkaConfig
from app.errors import OperatingError
from app.group.progress import LagMonitor
from app.publish.producer import Producer
from torture.load import Payment, record_of

CHUNK = 100  # records sent together
PAUSE_S = 0.02  # between two chunks, so that a slice of the topic lasts for many groups
ANSWER_S = 20.0
END_S = 30.0


class FeedError(OperatingError):
    """The payments could not be written."""


class Feed:
    """Writes *made* to *topic*. *allowed* and *sent* count records; *settled* and *total* are the group's progress."""

    def __init__(self, kafka: KafkaConfig, topic: str, made: Sequence[Payment]) -> None:
        self.allowed = self.sent = self.settled = self.total = 0
        self.moved_at = time.monotonic()  # when the progress changed last
        self.made = made
        self._kafka = kafka
        self._topic = topic
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
            raise FeedError(f"the payments could not be written: {self._failure!r}") from self._failure

    @property
    def is_settled(self) -> bool:
        """Whether everything that is allowed was written and settled."""
        return self.allowed == self.sent == self.total == self.settled

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except Exception as error:  # noqa: BLE001  # told by `check`
            self._failure = error

    async def _work(self) -> None:
        tasks = {asyncio.create_task(self._write()), asyncio.create_task(self._watch())}
        try:
            while not self._stopping.is_set():
                done, _ = await asyncio.wait(tasks, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
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
            with suppress(KafkaError, OSError, TimeoutError):  # the broker is away, in some runs on purpose
                async with AsyncExitStack() as stack:
                    monitor = LagMonitor(self._kafka, self._kafka.consumer_config.group_id)
                    stack.push_async_exit(monitor)  # what cannot connect is closed, too
                    await monitor.__aenter__()
                    while True:
                        await self._look(monitor)
                        await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)

    async def _look(self, monitor: LagMonitor) -> None:
        async with asyncio.timeout(ANSWER_S):
            progress = (await monitor.progress([self._topic]))[self._topic]
        if (progress.settled, progress.total) != (self.settled, self.total):
            self.settled, self.total, self.moved_at = progress.settled, progress.total, time.monotonic()
