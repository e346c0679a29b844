"""Restore a partition's store from its changelog, and claim the partition for a worker.

A worker replays the log to its end, appends a claim with the next epoch, and replays up to that
claim. The worker whose claim is the first one in the log with its epoch owns the partition from
there on. The log decides, not a clock.

Replay runs in slices, so that heartbeats, web views and everything else on the event loop continue
meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from famulus.errors import ConfigError
from famulus.kafka.log_reader import POLL_MS, poll, read_to
from famulus.kafka.stray_counts import strays
from famulus.state.changelog import (
    PROCESSED,
    RESET,
    UNFINISHED,
    WHOLE,
    Logged,
    decode_processed,
    epoch_of,
    fault_in,
    whole_since,
)
from famulus.state.changelog_repair import write_back
from famulus.state.changelog_topic import LogReader, Sender, append_claim
from famulus.state.identity import (
    ChangelogPartition,
    Extent,
    StoreCopy,
    check_written_here,
    is_other,
    judged,
    restore_or_replay,
)
from famulus.state.replica import Replica
from famulus.state.rocksdb_store import StoreError

log = structlog.get_logger()
SLICE = 2_000  # records replayed before other tasks of the event loop run
RETRY_S = 1.0
SAY_EVERY_S = 2.0


@dataclass
class Progress:
    """Progress of restoring an assignment, for the web views."""

    partitions: int = 0
    records: int = 0
    rows: int = 0  # those of the records that are rows of tables
    total: int = 0  # records between the stores' positions and the ends of the logs
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    waiting_for: str = ""  # what keeps a store from opening

    @property
    def seconds(self) -> float:
        """Return the duration so far, or the total once restoring has ended."""
        return (time.monotonic() if self.ended is None else self.ended) - self.began


class Restorer:
    """Restores and claims partitions for this worker.

    *tombstones_h* is the time, in hours, for which the changelog keeps tombstones.
    """

    def __init__(self, reader: LogReader, sender: Sender, tombstones_h: float) -> None:
        self._reader = reader
        self._sender = sender
        self._tombstones_s = tombstones_h * 3600
        self.progress = Progress()

    async def acquire(self, replicas: Sequence[Replica], is_wanted: Callable[[], bool]) -> bool:
        """Open, replay and claim *replicas*. Return False when *is_wanted* turned false meanwhile.

        While a store cannot be opened this waits, with the reason in `progress`. Raises what Kafka
        raises, and ConfigError when a store or a changelog does not belong here, or is not
        complete.
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
            _check_written(replicas)
            waiting = list(replicas)
            while waiting:
                claims = dict(
                    zip(waiting, await asyncio.gather(*map(self._claim, waiting)), strict=True)
                )
                ends = {replica.place: offset + 1 for replica, (_, offset) in claims.items()}
                if not await self._catch_up(consumer, waiting, ends, is_wanted):
                    return False
                waiting = [
                    replica for replica, (owner, _) in claims.items() if replica.owner != owner
                ]
            await self._mend([replica for replica in replicas if replica.lacks])
        progress.ended = time.monotonic()
        progress.rows = sum(replica.rows for replica in replicas)
        log.info(
            "restored",
            records=progress.records,
            rows=progress.rows,
            seconds=round(progress.seconds, 3),
            partitions=len(replicas),
            stale=sum(replica.stale for replica in replicas),
        )
        return True

    async def _mend(self, replicas: Iterable[Replica]) -> None:
        """Write back what the changelogs have lost.

        Otherwise the only copy would be in this worker's store.
        """
        for replica in replicas:
            place = {"topic": replica.topic, "partition": replica.partition}
            log.error(
                "the changelog was truncated; what it lacks is written back from the state",
                why=replica.lacks,
                **place,
            )
            written = await write_back(self._sender, replica)
            log.info("the changelog is whole again", records=written, **place)

    def _opened(self, replica: Replica) -> bool:
        if replica.store.is_open:
            return True
        try:
            replica.store.open()
        except StoreError as error:
            if self.progress.waiting_for != str(error):
                log.error("waiting for a state folder", error=str(error))  # not a bug
            self.progress.waiting_for = str(error)
            return False
        self.progress.waiting_for = ""
        return True

    async def seek(
        self, consumer: AIOKafkaConsumer, replicas: Iterable[Replica]
    ) -> dict[TopicPartition, int]:
        """Seek to the position of each store and return the ends of the logs.

        A store that its log does not continue is put aside and rebuilt, if the log has all of the
        state. Raises ConfigError when the log has not, or when the store belongs to something else,
        see `identity.judged`.
        """
        of = {replica.place: replica for replica in replicas}
        begins, ends = await asyncio.gather(
            consumer.beginning_offsets(list(of)), consumer.end_offsets(list(of))
        )
        for place, replica in of.items():
            await self._judge(consumer, replica, Extent(begins[place], ends[place]))
            start = max(replica.store.position + 1, begins[place])
            consumer.seek(place, start)
            self.progress.total += ends[place] - start
        return dict(ends)

    async def _judge(self, consumer: AIOKafkaConsumer, replica: Replica, log_: Extent) -> None:
        store, here = replica.store, replica.home
        if log_.begin or (store.home is not None and is_other(store.home.topic_id, here.topic_id)):
            log_ = await self._looked(consumer, replica, log_)
        of = judged(StoreCopy(store.home, store.position, store.path), here, log_, replica.source)
        replica.lacks, why = of.lacks, of.rebuilt
        place = {"topic": replica.topic, "partition": replica.partition}
        if why:
            log.warning(
                "state is rebuilt from the changelog",
                why=why,
                kept_at=str(store.begin_anew()),
                **place,
            )
        elif (
            0 < store.position + 1 < log_.end
            and store.age_s() > self._tombstones_s
            and log_.is_whole
        ):
            why = "the state is older than the tombstones of its changelog"
            log.error(
                "state is rebuilt from the changelog",
                why=why,
                position=store.position,
                log_begins=log_.begin,
                log_ends=log_.end,
                **place,
            )
            store.wipe()
        if store.home is None and store.position >= 0:
            log.info(
                "the state knows from now on what it belongs to",
                cluster=here.cluster_id,
                topic_id=here.topic_id,
                **place,
            )
        store.home = here

    async def _looked(self, consumer: AIOKafkaConsumer, replica: Replica, log_: Extent) -> Extent:
        """Read all of a log and return its extent.

        The records tell from which offset on the log is complete. Nothing is written.
        """
        place, epoch = replica.place, 0
        consumer.seek(place, log_.begin)
        async for _, records in read_to(
            consumer, {place: log_.end}, max_records=SLICE, skipped=strays.skipped("state")
        ):
            for record in records:
                written = epoch_of(record.headers)
                if written < epoch or fault_in(record.key, record.value, written):
                    continue
                epoch = written
                log_ = said(log_, record, replica.home)
        return log_

    async def _catch_up(
        self,
        consumer: AIOKafkaConsumer,
        replicas: Iterable[Replica],
        ends: Mapping[TopicPartition, int],
        is_wanted: Callable[[], bool],
    ) -> bool:
        of = {replica.place: replica for replica in replicas}
        said_at = time.monotonic()
        left = {place for place in of if await consumer.position(place) < ends[place]}
        while left:
            if not is_wanted():
                return False
            await self.replay_some(consumer, of, left)
            if time.monotonic() - said_at > SAY_EVERY_S:
                said_at = time.monotonic()
                log.info(
                    "restoring",
                    records=self.progress.records,
                    of=self.progress.total,
                    seconds=round(self.progress.seconds, 1),
                )
            left = {place for place in left if await consumer.position(place) < ends[place]}
        return True

    async def replay_some(
        self,
        consumer: AIOKafkaConsumer,
        of: Mapping[TopicPartition, Replica],
        places: Iterable[TopicPartition],
    ) -> None:
        """Replay the records that one poll returns, at most SLICE of them."""
        skipped = strays.skipped("state")
        fetched = await poll(
            consumer, *places, timeout_ms=POLL_MS, max_records=SLICE, skipped=skipped
        )
        for place, records in fetched.items():
            position = await consumer.position(place) - 1
            of[place].replay(records, position)
            self.progress.records += len(records)
            await asyncio.sleep(0)

    async def _claim(self, replica: Replica) -> tuple[str, int]:
        """Append a claim and return its owner id and its offset."""
        return await append_claim(
            self._sender, replica.topic, replica.partition, replica.store.epoch + 1
        )


def said(log_: Extent, record: Logged, here: ChangelogPartition) -> Extent:
    """Return the extent *log_* updated by one more record of the log."""
    if record.key == RESET:
        return log_._replace(whole_since=record.offset, is_own=False)
    if record.value is None:
        return log_
    if record.key == WHOLE:
        return log_._replace(whole_since=whole_since(record.value))
    if record.key == PROCESSED:
        home = decode_processed(record.value).home
        return log_._replace(is_own=home is not None and home.topic_id == here.topic_id)
    return log_


def _check_written(replicas: Iterable[Replica]) -> None:
    """Check that the replayed records were written for this partition and are complete.

    Raises ConfigError when they were written for another one, or when a write-back did not finish.
    """
    for replica in replicas:
        raw = replica.store.get(PROCESSED)
        check_written_here(
            None if raw is None else decode_processed(raw).home, replica.home, replica.source
        )
        if replica.store.get(WHOLE) == UNFINISHED and not replica.lacks:
            raise ConfigError(
                f"{replica.home}: the changelog was being written back, and that did not end; "
                "do it again: "
                f"{restore_or_replay(replica.source)}"
            )
