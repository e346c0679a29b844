"""State of this worker's partitions: opened, restored and claimed when they are assigned.

The manager also keeps standby copies of other workers' partitions (`State.StandbyReplicas`). Copies
follow the changelogs without a claim, so a partition that moves here only needs the newest records.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog
from aiokafka import TopicPartition
from faust.types import TP
from msgspec.structs import replace

from famulus.errors import ConfigError
from famulus.kafka.admin import changed_number
from famulus.kafka.leader_epochs import UNKNOWN
from famulus.kafka.record_batches import UnreadableBatchError
from famulus.kafka.topic_ids import Topics
from famulus.observability.logs import described
from famulus.state.changelog import ATTEMPTS, DEAD, PROCESSED, decode_processed
from famulus.state.changelog_topic import LogReader, Sender
from famulus.state.checkpointer import Checkpointer, Probe
from famulus.state.dedupe import Dedupe
from famulus.state.failure_state import FailureState
from famulus.state.identity import (
    ChangelogPartition,
    CommitNote,
    check_leader_epoch,
    is_other,
    made_anew,
    note_text,
    restore_or_replay,
)
from famulus.state.partition_state import Checkpoint, PartitionState
from famulus.state.replica import Replica
from famulus.state.restore import Restorer
from famulus.state.rocksdb_store import Memory, StateFolder, Store, StoreError
from famulus.state.tables import Table

log = structlog.get_logger()
RETRY_S = 1.0
TIDY_S = 3600.0
NOTHING = Topics("", {})
NOBODY = UNKNOWN, UNKNOWN


@dataclass(frozen=True)
class StateSpec:
    """Declaration of the state of one subscription.

    *topic* is its state changelog, None for a subscription without state. *held* has the partitions
    that this worker owns by number; tables read it.
    """

    topic: str | None
    dedupe: Dedupe | None
    tables: Mapping[str, Table[object, object]]
    held: dict[int, PartitionState]


@dataclass(frozen=True)
class OwnedPartition:
    """A partition that this worker owns.

    *checkpointer* is None for a subscription without state. *unreadable* is the reason to start
    nothing of the partition, when a record of its state cannot be decoded; "" when all can.
    """

    partition: PartitionState
    checkpointer: Checkpointer | None
    unreadable: str = ""


@dataclass
class PartitionStateManager:
    """Opens and closes the state of this worker's partitions.

    *group_bytes* limits the bytes of one checkpoint. *retention_h* is the time, in hours, for which
    the files of partitions that moved to other workers are kept.
    """

    remembered: Mapping[str, StateSpec]  # by source topic
    folder: StateFolder
    memory: Memory
    reader: LogReader
    sender: Sender
    restorer: Restorer
    group_bytes: int
    retention_h: float
    probe: Probe
    is_fenced: bool = True
    held: dict[TP, OwnedPartition] = field(default_factory=dict)
    # Sources and changelogs as of the last assignment.
    topics: Topics = NOTHING
    # Sources without state that were deleted and created again since.
    anew: set[str] = field(default_factory=set)
    _gone: set[str] = field(default_factory=set)  # topics that were missing at the last check
    # Leader epoch and next offset at the last check.
    _seen: dict[TP, tuple[int, int]] = field(default_factory=dict)
    _standby: asyncio.Task[None] | None = None

    async def acquire(
        self, assigned: Iterable[TP], standbys: Iterable[TP], is_wanted: Callable[[], bool]
    ) -> bool:
        """Restore and claim the state of *assigned*, and follow the changelogs of *standbys*.

        Returns False when *is_wanted* turned false. Partitions of topics without a subscription are
        ignored.

        Raises what Kafka raises, and ConfigError when the state does not belong to the topics on
        the cluster, see `state.identity`.
        """
        await self.release()
        self.topics = await self.sender.topics(self._names)
        self._seen = {}
        ours, theirs = (
            [tp for tp in of if tp.topic in self.remembered] for of in (assigned, standbys)
        )
        self.memory = self.memory.shared_by(
            sum(self.remembered[tp.topic].topic is not None for tp in (*ours, *theirs))
        )
        while not await self._open(ours, is_wanted):
            if not is_wanted():
                return False
            await asyncio.sleep(RETRY_S)
        copies = [replica for tp in theirs if (replica := self._copy(tp)) is not None]
        self._standby = asyncio.create_task(self._follow(copies), name="standby")
        return True

    async def _open(self, ours: Iterable[TP], is_wanted: Callable[[], bool]) -> bool:
        """Open, restore and claim the partitions *ours*.

        Returns False when *is_wanted* turned false or the disk refuses for now.
        """
        replicas = {tp: replica for tp in ours if (replica := self._replica(tp)) is not None}
        try:
            if not await self.restorer.acquire(list(replicas.values()), is_wanted):
                return self._close(replicas.values())
            settlers = {tp: self._checkpointer(tp, replica) for tp, replica in replicas.items()}
            await asyncio.gather(*(checkpointer.start() for checkpointer in settlers.values()))
        except StoreError as error:
            log.error("waiting for the disk", error=str(error), again_in_s=RETRY_S)  # not a bug
            self.restorer.progress.waiting_for = str(error)
            return self._close(replicas.values())
        except UnreadableBatchError as error:
            self._close(replicas.values())
            raise self._damaged(error) from None
        except BaseException:
            self._close(replicas.values())
            raise
        for tp in ours:
            self._hold(tp, replicas.get(tp), settlers.get(tp))
        return True

    def _damaged(self, error: UnreadableBatchError) -> ConfigError:
        """Return the error for a changelog that is damaged where it is needed, with a cure."""
        state = error.place.topic
        source = next((topic for topic, of in self.remembered.items() if of.topic == state), state)
        return ConfigError(
            f"{error.args[0]}. The state cannot be restored from there: start a worker that "
            "has this partition on its "
            f"disk, or delete topic {state} and have `faust -A app state replay --topic "
            f"{source}` make the state anew"
        )

    async def release(self) -> None:
        """Close all stores.

        The caller has stopped the processors of the partitions before.
        """
        if self._standby is not None:
            self._standby.cancel()
            await asyncio.gather(self._standby, return_exceptions=True)
            self._standby = None
        for held in self.held.values():
            held.partition.is_abandoned = True
            if held.partition.store is not None:
                held.partition.store.close()
        self.held.clear()
        for remembered in self.remembered.values():
            remembered.held.clear()

    def _hold(self, tp: TP, replica: Replica | None, checkpointer: Checkpointer | None) -> None:
        """Register a partition as owned.

        Its failure state and source position were validated when the changelog was replayed.
        """
        store = replica.store if replica is not None else None
        partition = PartitionState(tp.partition, store, self.group_bytes, tp.topic)
        partition.home = replica.home if replica is not None else None
        partition.source_id = self.source_id(tp.topic)
        raw = store.get(PROCESSED) if store is not None else None
        partition.processed = decode_processed(raw) if raw is not None else None
        if store is not None:
            partition.failure_state = FailureState([*store.items(ATTEMPTS), *store.items(DEAD)])
        why = replica.unreadable if replica is not None else ""
        if why:
            why = (
                f"a record of the state cannot be read, {why}; nothing of "
                f"{tp.topic}-{tp.partition} is started. "
                f"`faust -A app state replay --topic {tp.topic}` makes its state anew, while "
                "no worker runs"
            )
        self.held[tp] = OwnedPartition(partition, checkpointer, why)
        self.remembered[tp.topic].held[tp.partition] = partition

    def _replica(self, tp: TP) -> Replica | None:
        topic = self.remembered[tp.topic].topic
        if topic is None:
            return None
        return Replica(self._home(tp, topic), tp.topic, self._store(topic, tp.partition))

    def _copy(self, tp: TP) -> Replica | None:
        """Return a standby copy of another worker's partition.

        Errors are only logged and give None, since a broken copy must not end the worker.
        """
        try:
            return self._replica(tp)
        except ConfigError as error:
            log.error(
                "a copy is not followed", topic=tp.topic, partition=tp.partition, why=str(error)
            )
            return None

    def _store(self, topic: str, partition: int) -> Store:
        return Store(self.folder.store_path(topic, partition), self.memory)

    def _home(self, tp: TP, topic: str) -> ChangelogPartition:
        """Return the current identity of the changelog partition of *tp*.

        Raises ConfigError when the changelog or that partition does not exist.
        """
        there = self.topics.of.get(topic)
        if there is None:
            raise ConfigError(
                f"the changelog {topic} is gone: it was deleted; {restore_or_replay(tp.topic)}"
            )
        if tp.partition >= there.partitions:
            source = self.topics.of.get(tp.topic)
            raise changed_number(
                topic, source.partitions if source else tp.partition + 1, there.partitions
            )
        return ChangelogPartition(self.topics.cluster_id, topic, there.id, tp.partition)

    @property
    def _names(self) -> list[str]:
        """Return the names of all sources and their changelogs."""
        return [
            *self.remembered,
            *(of.topic for of in self.remembered.values() if of.topic is not None),
        ]

    def source_id(self, topic: str) -> str:
        """Return a source's topic id as of the last assignment, "" if unknown."""
        return self.topics.of[topic].id if topic in self.topics.of else ""

    def source_ids(self, topic: str) -> tuple[str, str]:
        """Return the cluster id and a source's topic id, for its dead letters."""
        return self.topics.cluster_id, self.source_id(topic)

    def note(self, tp: TP) -> str:
        """Return the metadata for an offset commit of *tp*."""
        held = self.held.get(tp)
        if held is None:
            return ""
        return note_text(
            CommitNote(self.source_id(tp.topic), has_state=held.partition.processed is not None)
        )

    async def adopt(self) -> None:
        """Write the identity of the topics into a state that an older version wrote.

        Raises what `Checkpointer.settle` raises.
        """
        for tp, held in self.held.items():
            partition, checkpointer = held.partition, held.checkpointer
            before = partition.processed
            if (
                checkpointer is None
                or before is None
                or before.home is not None
                or partition.is_abandoned
            ):
                continue
            after = replace(before, home=partition.home, source_id=partition.source_id)
            is_ours = partial(_is_kept, partition)
            if await checkpointer.settle(Checkpoint(), after, is_ours):
                partition.processed = after
                log.info(
                    "the state knows from now on which topic its offsets are of",
                    topic=tp.topic,
                    partition=tp.partition,
                    topic_id=partition.source_id,
                )

    async def look(self) -> set[str]:
        """Check that the topics are still the same as at the last assignment.

        Returns the sources without state that were deleted and created again since.

        Raises ConfigError when a changelog of an owned partition, or its source, was deleted or
        created again, and what the sender's `topics` raises.
        """
        at = {tp: self._next_offset(tp) for tp in self.held}
        before, now = self.topics, await self.sender.topics(self._names)
        anew = {
            name
            for name, topic in now.of.items()
            if name in before.of and is_other(before.of[name].id, topic.id)
        }
        found, gone = set[str](), self._gone
        self._gone = set(self._names) - now.of.keys()
        for source in {tp.topic for tp in self.held}:
            changelog = self.remembered[source].topic
            if changelog is None:
                found |= {source} & anew
            elif (
                changelog in anew or changelog in gone & self._gone
            ):  # missing twice: a broker that has just started may not know it yet
                what = "deleted and made anew" if changelog in now.of else "deleted"
                raise ConfigError(
                    f"the changelog {changelog} was {what}; {restore_or_replay(source)}"
                )
            elif source in anew:
                raise made_anew(source, before.of[source].id, now.of[source].id)
        await self._look_at_epochs(at, now)
        self.anew |= found
        return found

    def _next_offset(self, tp: TP) -> int:
        processed = self.held[tp].partition.processed
        return processed.next_offset if processed is not None else 0

    async def _look_at_epochs(self, at: Mapping[TP, int], now: Topics) -> None:
        """Check partitions with a new leader epoch for truncation (KIP-320).

        Raises ConfigError when such a partition lost records that were read before the previous
        check. *at* has the next offset of each partition.
        """
        seen, self._seen = self._seen, {}
        asked: dict[TopicPartition, int] = {}
        for tp, offset in at.items():
            _, epoch = (
                now.of[tp.topic].leaders.get(tp.partition, NOBODY) if tp.topic in now.of else NOBODY
            )
            self._seen[tp] = epoch, offset
            was, _ = seen.get(tp, NOBODY)
            if UNKNOWN not in {was, epoch} and was != epoch:
                asked[TopicPartition(*tp)] = was
        for place, end in (await self.sender.epoch_ends(asked, now)).items() if asked else ():
            check_leader_epoch(place.topic, place.partition, seen[TP(*place)][1], end)

    async def epoch_ends(self) -> dict[TP, int]:
        """Return the end offsets of the leader epochs in the source positions of owned partitions.

        Partitions without a known epoch or end offset are left out.
        """
        known = {tp: of.partition.processed for tp, of in self.held.items()}
        epochs = {
            TopicPartition(*tp): processed.leader_epoch
            for tp, processed in known.items()
            if processed is not None
            and processed.leader_epoch != UNKNOWN
            and tp.topic in self.topics.of
            and not is_other(processed.source_id, self.source_id(tp.topic))
        }
        found = await self.sender.epoch_ends(epochs, self.topics) if epochs else {}
        return {TP(*place): end for place, end in found.items()}

    def _checkpointer(self, tp: TP, replica: Replica) -> Checkpointer:
        remembered = self.remembered[tp.topic]
        windows = {t.prefix: t.window for t in remembered.tables.values() if t.window is not None}
        return Checkpointer(
            replica,
            remembered.dedupe,
            windows,
            sender=self.sender,
            reader=self.reader,
            probe=self.probe,
            is_fenced=self.is_fenced,
        )

    @staticmethod
    def _close(replicas: Iterable[Replica]) -> bool:
        for replica in replicas:
            replica.store.close()
        return False

    async def _follow(self, copies: list[Replica]) -> None:
        """Keep *copies* up to date and the state folder tidy, until cancelled."""
        said = ""
        try:
            while True:
                in_use = {
                    h.partition.store.path
                    for h in self.held.values()
                    if h.partition.store is not None
                }
                self.folder.tidy(in_use | {copy.store.path for copy in copies}, self.retention_h)
                if not copies:
                    await asyncio.sleep(TIDY_S)
                    continue
                try:
                    async with asyncio.timeout(TIDY_S):
                        await self._follow_logs(copies)
                except (StoreError, TimeoutError):
                    pass
                except Exception as error:  # a worker can do without copies, and retries
                    if said != (said := described(error)):
                        log.error("what is kept for others cannot follow", why=said)  # no traceback
                await asyncio.sleep(RETRY_S)
        finally:
            self._close(copies)

    async def _follow_logs(self, copies: list[Replica]) -> None:
        for copy in copies:
            if not copy.store.is_open:
                copy.store.open()
        of = {copy.place: copy for copy in copies}
        async with self.reader.consumer(of) as consumer:
            for copy in of.copy().values():
                try:
                    await self.restorer.seek(consumer, [copy])
                except (
                    ConfigError
                ) as error:  # the next owner of the partition reports it; nothing is changed here
                    log.error(
                        "a copy is not followed",
                        topic=copy.topic,
                        partition=copy.partition,
                        why=str(error),
                    )
                    copy.store.close()
                    copies.remove(copy)
                    del of[copy.place]
            while of:
                await self.restorer.replay_some(consumer, of, of)


def _is_kept(partition: PartitionState) -> bool:
    return not partition.is_abandoned
