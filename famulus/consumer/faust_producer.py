"""Faust's producer, replaced so that Faust's records leave through the worker's producer.

`topic.send`, `agent.send`, `ask` and its reply, and the changelogs of Faust's tables share
connection, batches, limits, metrics and tracing with `EventBus` and `Producer`. These records are
not part of a unit of work: they leave at once, even when the handler that sends them fails later.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

from faust.exceptions import NotReady
from faust.transport import base
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, HeadersArg
from faust.types.tuples import RecordMetadata

from famulus.observability.tracing import Tracing
from famulus.producer.producer import Producer as Sender
from famulus.producer.results import PublishError
from famulus.serialization.records import Headers, ProducerRecord, with_own

OPEN_MAX = 10_000  # Faust's records without an answer; a further send waits


class Producer(driver.Producer):
    """Sends Faust's records through the app's `sender`.

    Where no worker has started the sender, as for a command of Faust's, this producer starts it.

    The future of a record raises what `producer.producer.Producer.produce` raises.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._open: set[asyncio.Task[RecordMetadata]] = set()
        self._room = asyncio.Semaphore(OPEN_MAX)
        self._is_ours = False  # whether this producer has started the sender

    @property
    def _sender(self) -> Sender:
        sender: Sender = self._host.sender
        return sender

    @property
    def _host(self) -> Any:  # Any: the app is both Faust's App and a Host
        return self.app

    def _ensure_producer(self) -> Any:  # Any: aiokafka is untyped
        try:
            return self._sender.connected().kafka
        except PublishError as error:
            raise NotReady("the producer is not connected") from error

    async def on_start(self) -> None:
        """Connect, unless the worker is connected already."""
        await base.Producer.on_start(self)
        if not self._sender.is_connected:
            await self._sender.start()
            self._is_ours = True

    async def on_stop(self) -> None:
        """Flush, and disconnect if this producer made the connection."""
        await self.flush()
        if self._is_ours:
            await self._sender.stop()

    async def send(  # noqa: PLR0917  # Faust's signature
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Send a record behind those that were sent before.

        The returned future is done when the cluster has the record. Waits while OPEN_MAX records
        have no answer. Raises NotReady when the producer is not connected.
        """
        assert not transactional_id, "transactions of Faust's are refused at the start"
        self._ensure_producer()
        said: list[Any] = list(headers.items() if isinstance(headers, Mapping) else headers or ())
        self._send_on_produce_message(
            key=key, value=value, partition=partition, timestamp=timestamp, headers=said
        )
        at_ms = int(timestamp * 1000) if timestamp else None
        record = ProducerRecord(
            topic, key, value, [(name, text) for name, text in said], partition, at_ms
        )
        await self._room.acquire()
        sending = asyncio.get_running_loop().create_task(self._sent(record), name="faust send")
        self._open.add(sending)
        sending.add_done_callback(self._done)
        return sending

    async def flush(self) -> None:
        """Wait until every sent record is acknowledged or has failed."""
        await self.buffer.flush()
        if self._open:
            await asyncio.wait(self._open)

    def key_partition(self, topic: str, key: bytes) -> TP:
        """Return the partition of *key*, by the partitioner that the settings name."""
        connection = self._sender.connected()
        return TP(
            topic,
            self._sender.choose(
                ProducerRecord(topic, key, None), connection.partitions_known(topic)
            ),
        )

    async def _sent(self, record: ProducerRecord) -> RecordMetadata:
        # Only for subscriptions may a claim check replace a payload: Faust's own agents would get
        # the reference.
        is_event = self._host.is_managed(record.topic)
        tracing: Tracing | None = self._host.bus.tracing
        if tracing is None:
            place = await self._sender.send(record, is_event=is_event)
        else:
            own: Headers = record.headers
            with tracing.send(
                record.topic, record.key, own, own, is_tombstone=record.value is None
            ) as span:
                traced = replace(record, headers=with_own(list(span.context), own))
                place = await self._sender.send(traced, is_event=is_event)
                span.sent(place)
        at = TP(place.topic, place.partition)
        return RecordMetadata(place.topic, place.partition, at, place.offset, place.timestamp_ms, 0)

    def _done(self, sending: "asyncio.Task[RecordMetadata]") -> None:
        self._open.discard(sending)
        self._room.release()
        if not sending.cancelled():
            sending.exception()  # retrieved here: asyncio warns of an exception that never is
