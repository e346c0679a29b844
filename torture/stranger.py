"""A client of another kind in the group of the workers: it knows none of their ways to share partitions out."""

import asyncio
import threading
from contextlib import suppress
from typing import Self

from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from famulus.config import KafkaConfig
from torture.errors import TortureError

JOINED_S = 30.0
AGAIN_S = 0.5


class Stranger:
    """Joins the group, or tries to, for as long as it is entered."""

    def __init__(self, kafka: KafkaConfig, topic: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._joined = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_until_complete, args=(self._stay(),), daemon=True
        )
        self._leaving = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._leaving.set)
        self._thread.join(JOINED_S)

    def wait_joined(self) -> None:
        """Wait until it is a member. Raises TortureError when it does not become one."""
        if not self._joined.wait(JOINED_S):
            raise TortureError("the stranger did not get into the group")

    async def _stay(self) -> None:
        while not self._leaving.is_set():
            with suppress(KafkaError):  # a group of others does not take it, perhaps later
                await self._join()
            await asyncio.sleep(AGAIN_S)

    async def _join(self) -> None:
        async with AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=self._kafka.bootstrap_servers,
            group_id=self._kafka.consumer_config.group_id,
            client_id="stranger",
            partition_assignment_strategy=[RangePartitionAssignor],
            enable_auto_commit=False,
        ) as consumer:
            while not self._leaving.is_set():
                await consumer.getmany(timeout_ms=100)  # which raises what the group answers
                if consumer.assignment():
                    self._joined.set()
