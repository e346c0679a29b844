"""How a partition's store catches up with its changelog, and how a worker makes the partition its own.

Replay to the end, append a claim with the next epoch, replay up to that claim: whoever's claim stands first in the log
with an epoch owns the partition from there on. The log decides, no clock does. Replaying goes in slices, so that
heartbeats, the web views and everything else on the event loop go on meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from app.access.reading import poll
from app.observe.strays import strays
from app.storage.log import POLL_MS, LogReader, Sender, append_claim
from app.storage.replica import Replica
from app.storage.store import StoreError

log = structlog.get_logger()
SLICE = 2_000  # records replayed before the event loop has its turn
RETRY_S = 1.0
SAY_EVERY_S = 2.0


@dataclass
class Progress:
    """How far the restoring of an assignment is; read by the web views."""

    partitions: int = 0
    records: int = 0
    rows: int = 0  # of them that are rows of tables
    total: int = 0  # records between the stores' positions and the ends of the logs
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    waiting_for: str = ""  # what keeps a store from opening

    @property
    def seconds(self) -> float:
        """How long it takes so far."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began


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
        progress.ended = time.monotonic()
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
        skipped = strays.skipped("state")
        fetched = await poll(consumer, *places, timeout_ms=POLL_MS, max_records=SLICE, skipped=skipped)
        for place, records in fetched.items():
            position = await consumer.position(place) - 1
            of[place].replay(records, position)
            self.progress.records += len(records)
            await asyncio.sleep(0)

    async def _claim(self, replica: Replica) -> tuple[str, int]:
        """Append a claim; returns its owner's id and its offset."""
        return await append_claim(self._sender, replica.topic, replica.partition, replica.store.epoch + 1)
