"""`dlq redrive` and `dlq drop`: letters go back to their group, a few at a time, and then it is written down.

A letter that was sent counts as done when its audit record is there. Whoever dies in between sends
a few of them twice, which the worker recognises by their events' ids; so an interrupted redrive is
made whole by saying it again.
"""

import asyncio
import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from famulus.application import Famulus
from famulus.config import KafkaConfig
from famulus.deadletter.dead_letter import Audit, Done, audit_of, audit_record
from famulus.deadletter.index import PAST, Entry, Plan
from famulus.deadletter.masking import truncate
from famulus.deadletter.redelivery import outgoing
from famulus.deadletter.topics import audit_topic
from famulus.errors import OperatingError, UnavailableError
from famulus.inspection.changelog_reader import source_partitions
from famulus.inspection.deadletters.reader import Reader
from famulus.inspection.deadletters.redelivery_builder import StaysError, batches, sent_back
from famulus.kafka.admin import ROOM_BYTES, create_topics, prepare_redelivery_topics
from famulus.processing.subscription import Subscription
from famulus.producer.connection import size_of
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

ANSWER_MS = 30_000  # for which a person waits
Ready = tuple[Entry, ProducerRecord, Audit]
# How it went with a letter: empty when it was sent, else why it stays.
Tell = Callable[[Entry, str], None]


class StoppedError(OperatingError):
    """Somebody stopped it (EX_TEMPFAIL): the rest is still to be done."""

    exit_code = 75


@dataclass(frozen=True)
class Request:
    """What is to be done: *rate* letters per second at most, 0 for no limit.

    *edited*: the value of the only letter.
    """

    action: Done
    rate: int
    note: str
    edited: bytes | None = None


class RedriveJob:
    """One redrive or drop of one subscription, by *who*.

    *stop* is set when somebody wants it to end.
    """

    def __init__(
        self, app: Famulus, reader: Reader, subscription: Subscription, request: Request, who: str
    ) -> None:
        self.sent = 0
        self.stays = 0
        self.stop = asyncio.Event()
        self._reader = reader
        self._letters = app.dead_letter_topic(subscription)
        self._back = app.redrive_topic(subscription)
        self._request = request
        self._who = truncate(who)
        self._kafka = _patient(app.settings.kafka)
        self._bytes_max = self._kafka.producer_config.max_request_size
        self._partitions = 0
        self._blocked: set[object] = set()  # sequences of which a letter stays
        self._app = app
        self._subscription = subscription

    async def run(self, plan: Plan, tell: Tell) -> None:
        """Send what is chosen.

        Raises StoppedError when it was stopped, UnavailableError when the broker is away.
        """
        self._partitions = await prepared(self._app, self._subscription)
        began_s = time.monotonic()
        total = len(plan.chosen)
        try:
            async with _connected(self._kafka) as producer:
                for batch in batches(plan.chosen, self._request.rate):
                    if self.stop.is_set():
                        # As for the errors of others.
                        raise StoppedError(self._far(total, "stopped"))
                    ready = [made async for made in self._ready(batch, plan, tell)]
                    ready = await self._sent(producer, ready, tell)
                    await producer.send_all(
                        [audit_record(audit_topic(self._letters), audit) for *_, audit in ready]
                    )
                    self.sent += len(ready)
                    for entry, *_ in ready:
                        tell(entry, "")
                    await self._pace(began_s)
        except asyncio.CancelledError:
            raise StoppedError(self._far(total, "stopped")) from None
        except (TimeoutError, KafkaError) as error:
            raise UnavailableError(
                self._far(
                    total,
                    f"the Kafka broker at {self._kafka.bootstrap_servers} does not answer any more",
                )
            ) from error

    async def _sent(self, producer: Producer, ready: list[Ready], tell: Tell) -> list[Ready]:
        """Send; those that the topic takes. The others are told."""
        try:
            await producer.send_all([record for _, record, _ in ready])
        except MessageSizeTooLargeError:
            await producer.renew()
            if len(ready) > 1:
                return [sent for one in ready for sent in await self._sent(producer, [one], tell)]
            [(entry, _, _)] = ready
            self._stays(
                entry, f"it is larger than {self._back} takes: raise its max.message.bytes", tell
            )
            return []
        return ready

    def _stays(self, entry: Entry, why: str, tell: Tell) -> None:
        self.stays += 1
        tell(entry, why)

    async def _ready(self, batch: Sequence[Entry], plan: Plan, tell: Tell) -> AsyncIterator[Ready]:
        """The records that send *batch* back, and what is written down then.

        Those that stay are told.
        """
        found = await self._reader.letters(self._letters, batch)
        for entry in batch:
            sequence = entry.sequence(by_partition=self._subscription.options.order == "partition")
            why = (
                "an earlier letter that it would have to wait for stays"
                if sequence in self._blocked
                else ""
            )
            if not why:
                try:
                    yield entry, *await self._made(entry, found.get(entry.place))
                except StaysError as error:
                    why = str(error)
                    if sequence in plan.ordered:
                        self._blocked.add(sequence)
            if why:
                self._stays(entry, why, tell)

    # Any: aiokafka is untyped.
    async def _made(self, entry: Entry, record: Any) -> tuple[ProducerRecord, Audit]:
        if entry.id.origin.partition >= self._partitions:
            raise StaysError(
                f"its topic has {self._partitions} partitions by now, none with this number"
            )
        letter, returned = await sent_back(
            self._reader, record, self._request.action, self._request.edited
        )
        made = outgoing(self._back, returned)
        size = size_of(made.key, made.value, made.headers)
        if size > self._bytes_max:
            raise StaysError(
                f"it takes {size} bytes, too many for Kafka.ProducerConfig.MaxRequestSize: set "
                "that higher"
            )
        return made, audit_of(
            letter, returned, self._who, time.time_ns() // 1_000_000, self._request.note
        )

    async def _pace(self, began_s: float) -> None:
        if self._request.rate:
            due_s = began_s + self.sent / self._request.rate - time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due_s, 0)):
                    await self.stop.wait()

    def _far(self, total: int, what: str) -> str:
        done = PAST[self._request.action]
        return (
            f"{what}: {self.sent} of {total} letters were {done}; the same command goes on "
            "with the rest"
        )


async def prepared(app: Famulus, subscription: Subscription) -> int:
    """Have the topics there through which letters go back and are accounted for; how many partitions the former has."""
    kafka, timeout_s = app.settings.kafka, app.settings.worker.startup_timeout_s
    count = await source_partitions(app, subscription)
    await prepare_redelivery_topics(
        kafka,
        {app.redrive_topic(subscription): count},
        app.settings.dead_letter.retention_h,
        timeout_s,
    )
    audits = audit_topic(app.dead_letter_topic(subscription))
    await create_topics(
        kafka, {audits: 1}, timeout_s, {"retention.ms": "-1", "cleanup.policy": "delete"}
    )
    return count


def whoami() -> str:
    """The person at the keyboard, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return truncate(f"{user}@{socket.gethostname()}")


def _patient(kafka: KafkaConfig) -> KafkaConfig:
    """The same cluster, for records that have grown by our headers, and for somebody who waits for the answer."""
    config = kafka.producer_config
    return kafka.model_copy(
        update={
            "producer_config": config.model_copy(
                update={
                    "max_request_size": config.max_request_size + ROOM_BYTES,
                    "delivery_timeout_ms": min(config.delivery_timeout_ms, ANSWER_MS),
                }
            )
        }
    )


@asynccontextmanager
async def _connected(kafka: KafkaConfig) -> AsyncIterator[Producer]:
    producer = Producer(kafka)
    await producer.start()
    try:
        yield producer
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await producer.stop()
