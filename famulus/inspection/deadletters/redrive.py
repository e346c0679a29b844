"""Redrives and drops of dead letters, for `dlq redrive` and `dlq drop`.

Dead letters are sent back to their group in small batches, and each batch is followed by its audit
records. A dead letter counts as done once its audit record is written. A process that dies between
the two leaves a few that the next run sends twice, which workers recognize by their event ids.
Running the same command again therefore completes an interrupted redrive.
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

ANSWER_MS = 30_000  # longest delivery timeout, since a person waits for the answer
Ready = tuple[Entry, ProducerRecord, Audit]
# Called for each dead letter with an empty text when it was sent, else with why it stays.
Tell = Callable[[Entry, str], None]


class StoppedError(OperatingError):
    """Redrive stopped before its end: the remaining dead letters are still to be sent.

    The exit code is EX_TEMPFAIL.
    """

    exit_code = 75


@dataclass(frozen=True)
class Request:
    """Action on dead letters, at most *rate* of them per second, 0 for no limit.

    *edited* replaces the value of the event; the plan has a single dead letter then.
    """

    action: Done
    rate: int
    note: str
    edited: bytes | None = None


class RedriveJob:
    """One redrive or drop of one subscription, on behalf of the operator *who*.

    Set *stop* to end it after the present batch. *sent* and *stays* count the dead letters that
    were sent and those that could not be.
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
        self._blocked: set[object] = set()  # sequences with a dead letter that could not be sent
        self._app = app
        self._subscription = subscription

    async def run(self, plan: Plan, tell: Tell) -> None:
        """Send the dead letters that *plan* chose, and report each to *tell*.

        Raises StoppedError when stopped or cancelled, UnavailableError when the broker does not
        answer.
        """
        self._partitions = await prepared(self._app, self._subscription)
        began_s = time.monotonic()
        total = len(plan.chosen)
        try:
            async with _connected(self._kafka) as producer:
                for batch in batches(plan.chosen, self._request.rate):
                    if self.stop.is_set():
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
        """Send the records and return those that the topic accepted; report the others."""
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
        """Yield each dead letter of *batch* with the record to send and its audit record.

        Dead letters that cannot be sent are reported to *tell*.
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
    """Create the redrive topic and the audit topic if missing; return the former's partitions."""
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
    """Return the user of this process as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return truncate(f"{user}@{socket.gethostname()}")


def _patient(kafka: KafkaConfig) -> KafkaConfig:
    """Return the settings of the cluster, adapted to redrives.

    Records may be larger by the headers that the engine adds, and the delivery timeout is at most
    `ANSWER_MS`.
    """
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
