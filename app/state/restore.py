"""How a partition's store catches up with its changelog, and how a worker makes the partition its own.

Replay to the end, append a claim with the next epoch, replay up to that claim: whoever's claim stands first in the log
with an epoch owns the partition from there on. The log decides, no clock does. Replaying goes in slices, so that
heartbeats, the web views and everything else on the event loop go on meanwhile.
"""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.errors import OperatingError
from app.state.changelog import (
    CLAIM,
    PACK,
    PROCESSED,
    RESET,
    ROW,
    Claim,
    Logged,
    decode_claim,
    encode,
    epoch_bytes,
    epoch_headers,
    epoch_of,
    unpack,
)  # fmt: skip
from app.state.commit import Sender, forget
from app.state.store import STALE, Store, StoreError

log = structlog.get_logger()
SLICE = 2_000  # records replayed before the event loop has its turn
POLL_MS = 200
RETRY_S = 1.0
SAY_EVERY_S = 2.0
WORKER = f"{socket.gethostname()}:{os.getpid()}"  # how claims name this process to people


@dataclass
class Progress:
    """How far the restoring of an assignment is; read by the web views."""

    partitions: int = 0
    records: int = 0
    rows: int = 0  # of them that are rows of tables
    total: int = 0  # records between the stores' positions and the ends of the logs
    began: float = field(default_factory=time.monotonic)
    waiting_for: str = ""  # what keeps a store from opening

    @property
    def seconds(self) -> float:
        """How long it takes so far."""
        return time.monotonic() - self.began


@dataclass(eq=False)
class Replica:
    """A store and the changelog partition that it copies."""

    topic: str
    partition: int
    store: Store
    owner: str = ""  # of the first claim with the newest epoch
    owner_epoch: int = -1
    rows: int = 0  # replayed
    stale: int = 0  # records that were ignored, because their writer had lost the partition

    @property
    def place(self) -> TopicPartition:
        """The changelog partition."""
        return TopicPartition(self.topic, self.partition)

    def replay(self, records: Sequence[Logged], position: int) -> None:
        """Apply *records* in their order; the store then holds the log up to *position*. Raises StoreError."""
        batch = self.store.batch()
        put, delete = batch.put, batch.delete
        epoch = self.store.epoch
        current = epoch_bytes(epoch)
        for record in records:
            key, value = record.key, record.value
            written = record.headers[0][1] if record.headers else b""
            if written != current:
                found = epoch_of(record.headers)
                if found < epoch:
                    self._ignore(batch, key)
                    continue
                epoch, current = found, written
            kind = key[:1]
            if kind == ROW:
                self.rows += 1
                if value is None:
                    delete(key)
                else:
                    put(key, value)
            elif kind == PACK and value is not None:
                put(key, value)
                for mark, seen in unpack(value):
                    put(mark, seen)
            elif key == PROCESSED and value is not None:
                put(key, value)
            elif key == CLAIM and value is not None:
                self._claimed(decode_claim(value))
            else:
                self.store.write(batch, record.offset - 1, epoch)
                self._remove(key)
                batch = self.store.batch()
                put, delete = batch.put, batch.delete
        self.store.write(batch, position, epoch)

    def _ignore(self, batch: Any, key: bytes) -> None:
        """A record whose writer had lost the partition; noted, so that whoever owns it overrules it."""
        self.stale += 1
        if key != CLAIM:
            batch.put(STALE + key, b"")

    def _claimed(self, claim: Claim) -> None:
        if claim.epoch > self.owner_epoch:
            self.owner, self.owner_epoch = claim.owner, claim.epoch

    def _remove(self, key: bytes) -> None:
        """A pack with its marks, unless the events were seen again since; a control record; or everything."""
        if key == RESET:
            epoch = self.store.epoch
            self.store.wipe()
            self.store.epoch = epoch
        elif (value := self.store.get(key)) is not None:
            batch = self.store.batch()
            forget(self.store, batch, [value] if key[:1] == PACK else [])
            batch.delete(key)
            self.store.write(batch, self.store.position, self.store.epoch)


class LogReader:
    """Reads changelogs from outside of any group. *new_consumer* makes an unassigned aiokafka consumer."""

    def __init__(self, new_consumer: Callable[[], AIOKafkaConsumer]) -> None:
        self._new_consumer = new_consumer

    @asynccontextmanager
    async def consumer(self, places: Iterable[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer assigned to *places*."""
        consumer = self._new_consumer()
        await consumer.start()
        try:
            consumer.assign(list(places))
            yield consumer
        finally:
            await consumer.stop()

    async def read(self, topic: str, partition: int, start: int) -> list[Logged]:
        """What a partition has from *start* to its present end."""
        place = TopicPartition(topic, partition)
        async with self.consumer([place]) as consumer:
            end = (await consumer.end_offsets([place]))[place]
            consumer.seek(place, start)
            found: list[Logged] = []
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(place, timeout_ms=POLL_MS)).values():
                    found += records
            return found


class Restorer:
    """Makes partitions this worker's own. *tombstones_h*: hours that the log keeps what says that a row was deleted."""

    def __init__(self, reader: LogReader, sender: Sender, tombstones_h: float) -> None:
        self._reader = reader
        self._sender = sender
        self._tombstones_s = tombstones_h * 3600
        self.progress = Progress()

    async def acquire(self, replicas: Sequence[Replica], is_wanted: Callable[[], bool]) -> bool:
        """Open, replay and claim *replicas*. False when *is_wanted* turned false meanwhile.

        While a store cannot be opened this waits and says why. Raises what Kafka raises.
        """
        self.progress = progress = Progress(len(replicas))
        if not replicas:
            return True
        for replica in replicas:
            while not self._opened(replica):
                if not is_wanted():
                    return False
                await asyncio.sleep(RETRY_S)
        async with self._reader.consumer([replica.place for replica in replicas]) as consumer:
            ends = await self.seek(consumer, replicas)
            if not await self._catch_up(consumer, replicas, ends, is_wanted):
                return False
            waiting = list(replicas)
            while waiting:
                claims = dict(zip(waiting, await asyncio.gather(*map(self._claim, waiting)), strict=True))
                ends = {replica.place: offset + 1 for replica, (_, offset) in claims.items()}
                if not await self._catch_up(consumer, waiting, ends, is_wanted):
                    return False
                waiting = [replica for replica, (owner, _) in claims.items() if replica.owner != owner]
        progress.rows = sum(replica.rows for replica in replicas)
        log.info("restored", records=progress.records, rows=progress.rows, seconds=round(progress.seconds, 3),
                 partitions=len(replicas), stale=sum(replica.stale for replica in replicas))  # fmt: skip
        return True

    def _opened(self, replica: Replica) -> bool:
        if replica.store.is_open:
            return True
        try:
            replica.store.open()
        except StoreError as error:
            if self.progress.waiting_for != str(error):
                log.error("waiting for a state folder", error=str(error))  # noqa: TRY400  # no bug
            self.progress.waiting_for = str(error)
            return False
        self.progress.waiting_for = ""
        return True

    async def seek(self, consumer: AIOKafkaConsumer, replicas: Iterable[Replica]) -> dict[TopicPartition, int]:
        """Go to where each store stands and return the logs' ends. A store that no log continues is made anew."""
        of = {replica.place: replica.store for replica in replicas}
        begins, ends = await asyncio.gather(consumer.beginning_offsets(list(of)), consumer.end_offsets(list(of)))
        for place, store in of.items():
            start, why = store.position + 1, ""
            if start > ends[place]:
                why = "the changelog is shorter than the state: it was deleted, or the cluster lost records"
            elif 0 < start < begins[place]:
                why = "the changelog was truncated beyond where the state ends"
            elif 0 < start < ends[place] and store.age_s() > self._tombstones_s:
                why = "the state is older than the tombstones of its changelog"
            if why:
                log.error("state is rebuilt from the changelog", why=why, topic=place.topic, partition=place.partition,
                          position=store.position, log_begins=begins[place], log_ends=ends[place])  # fmt: skip
                store.wipe()
                start = 0
            consumer.seek(place, max(start, begins[place]))
            self.progress.total += ends[place] - max(start, begins[place])
        return dict(ends)

    async def _catch_up(
        self, consumer: AIOKafkaConsumer, replicas: Iterable[Replica], ends: Mapping[TopicPartition, int],
        is_wanted: Callable[[], bool],
    ) -> bool:  # fmt: skip
        of = {replica.place: replica for replica in replicas}
        said_at = time.monotonic()
        left = {place for place in of if await consumer.position(place) < ends[place]}
        while left:
            if not is_wanted():
                return False
            await self.replay_some(consumer, of, left)
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                log.info("restoring", records=self.progress.records, of=self.progress.total,
                         seconds=round(self.progress.seconds, 1))  # fmt: skip
            left = {place for place in left if await consumer.position(place) < ends[place]}
        return True

    async def replay_some(
        self, consumer: AIOKafkaConsumer, of: Mapping[TopicPartition, Replica], places: Iterable[TopicPartition]
    ) -> None:
        """Replay what there is, a slice at most."""
        fetched = await consumer.getmany(*places, timeout_ms=POLL_MS, max_records=SLICE)
        for place, records in fetched.items():
            position = await consumer.position(place) - 1
            of[place].replay(records, position)
            self.progress.records += len(records)
            await asyncio.sleep(0)

    async def _claim(self, replica: Replica) -> tuple[str, int]:
        """Append a claim; returns its owner's id and its offset."""
        claim = Claim(replica.store.epoch + 1, uuid4().hex, WORKER, time.time_ns() // 1_000_000)
        sent = await self._sender.send_batch(
            replica.topic, replica.partition, [(CLAIM, encode(claim))], epoch_headers(claim.epoch)
        )
        offset = await sent
        if offset < 0:
            raise OperatingError(f"the cluster does not say where a claim for {replica.topic} is; start again")
        return claim.owner, offset
