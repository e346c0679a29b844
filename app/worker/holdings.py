"""What this worker holds: the state of its partitions, opened, restored and claimed when they are assigned.

Also the copies that it keeps for others (`State.StandbyReplicas`), which follow the changelogs without a claim, so
that a partition that moves here needs only the rest.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from faust.types import TP

from app.access.batches import UnreadableBatchError
from app.errors import ConfigError
from app.observe.logs import described
from app.state.commit import Probe, Settler
from app.state.dedupe import Dedupe
from app.state.partition import Partition
from app.state.tables import Table
from app.state.troubles import Troubles
from app.storage.changelog import ATTEMPTS, DEAD, PROCESSED, decode_processed
from app.storage.log import LogReader, Sender
from app.storage.replica import Replica
from app.storage.restore import Restorer
from app.storage.store import Memory, StateFolder, Store, StoreError

log = structlog.get_logger()
RETRY_S = 1.0
TIDY_S = 3600.0


@dataclass(frozen=True)
class Remembered:
    """What one subscription remembers. *topic* is its state changelog, None when it remembers nothing.

    *held* has this worker's partitions by number; tables read it.
    """

    topic: str | None
    dedupe: Dedupe | None
    tables: Mapping[str, Table[object, object]]
    held: dict[int, Partition]


@dataclass(frozen=True)
class Held:
    """One partition of this worker. *settler* None: nothing is remembered.

    *unreadable* says why nothing of it may be started: a record of its state cannot be read.
    """

    partition: Partition
    settler: Settler | None
    unreadable: str = ""


@dataclass
class Holdings:
    """Opens and closes what the partitions of this worker remember.

    *group_bytes* is what one group commit may have, *retention_h* how long the files of partitions that went elsewhere
    are kept, in hours.
    """

    remembered: Mapping[str, Remembered]  # by source topic
    folder: StateFolder
    memory: Memory
    reader: LogReader
    sender: Sender
    restorer: Restorer
    group_bytes: int
    retention_h: float
    probe: Probe
    is_fenced: bool = True
    held: dict[TP, Held] = field(default_factory=dict)
    _standby: asyncio.Task[None] | None = None

    async def acquire(self, assigned: Iterable[TP], standbys: Iterable[TP], is_wanted: Callable[[], bool]) -> bool:
        """Make the state of *assigned* ours, and follow that of *standbys*. False when it is not wanted any more.

        Partitions of topics without a subscription are left out. Raises what Kafka raises.
        """
        await self.release()
        ours, theirs = ([tp for tp in of if tp.topic in self.remembered] for of in (assigned, standbys))
        self.memory = self.memory.shared_by(sum(self.remembered[tp.topic].topic is not None for tp in (*ours, *theirs)))
        while not await self._open(ours, is_wanted):
            if not is_wanted():
                return False
            await asyncio.sleep(RETRY_S)
        copies = [replica for tp in theirs if (replica := self._replica(tp)) is not None]
        self._standby = asyncio.create_task(self._follow(copies), name="standby")
        return True

    async def _open(self, ours: Iterable[TP], is_wanted: Callable[[], bool]) -> bool:
        """Open, restore and claim *ours*. False when that is not wanted any more, or the disk does not let us now."""
        replicas = {tp: replica for tp in ours if (replica := self._replica(tp)) is not None}
        try:
            if not await self.restorer.acquire(list(replicas.values()), is_wanted):
                return self._close(replicas.values())
            settlers = {tp: self._settler(tp, replica) for tp, replica in replicas.items()}
            await asyncio.gather(*(settler.start() for settler in settlers.values()))
        except StoreError as error:
            log.error("waiting for the disk", error=str(error), again_in_s=RETRY_S)  # noqa: TRY400  # no bug
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
        """The error that says that a changelog is damaged where it is needed, and what helps."""
        state = error.place.topic
        source = next((topic for topic, of in self.remembered.items() if of.topic == state), state)
        return ConfigError(
            f"{error.args[0]}. The state cannot be restored from there: start a worker that has this partition on its "
            f"disk, or delete topic {state} and have `faust -A app state replay --topic {source}` make the state anew"
        )

    async def release(self) -> None:
        """Close everything; the partitions' flows have ended before."""
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

    def _hold(self, tp: TP, replica: Replica | None, settler: Settler | None) -> None:
        """Hold a partition. What its troubles say was looked at when it was replayed."""
        store = replica.store if replica is not None else None
        partition = Partition(tp.partition, store, self.group_bytes, tp.topic)
        raw = store.get(PROCESSED) if store is not None else None
        partition.processed = decode_processed(raw) if raw is not None else None
        if store is not None:
            partition.troubles = Troubles([*store.items(ATTEMPTS), *store.items(DEAD)])
        why = replica.unreadable if replica is not None else ""
        if why:
            why = (
                f"a record of the state cannot be read, {why}; nothing of {tp.topic}-{tp.partition} is started. "
                f"`faust -A app state replay --topic {tp.topic}` makes its state anew, while no worker runs"
            )
        self.held[tp] = Held(partition, settler, why)
        self.remembered[tp.topic].held[tp.partition] = partition

    def _replica(self, tp: TP) -> Replica | None:
        topic = self.remembered[tp.topic].topic
        if topic is None:
            return None
        return Replica(topic, tp.partition, Store(self.folder.store_path(topic, tp.partition), self.memory))

    def _settler(self, tp: TP, replica: Replica) -> Settler:
        remembered = self.remembered[tp.topic]
        windows = {t.prefix: t.window for t in remembered.tables.values() if t.window is not None}
        return Settler(
            replica.topic, replica.partition, replica.store, remembered.dedupe, windows, self.sender, self.reader,
            self.probe, is_fenced=self.is_fenced,
        )  # fmt: skip

    @staticmethod
    def _close(replicas: Iterable[Replica]) -> bool:
        for replica in replicas:
            replica.store.close()
        return False

    async def _follow(self, copies: list[Replica]) -> None:
        """Keep *copies* up to their changelogs, and the folder tidy, until cancelled."""
        said = ""
        try:
            while True:
                in_use = {h.partition.store.path for h in self.held.values() if h.partition.store is not None}
                self.folder.tidy(in_use | {copy.store.path for copy in copies}, self.retention_h)
                if not copies:
                    await asyncio.sleep(TIDY_S)
                    continue
                try:
                    async with asyncio.timeout(TIDY_S):
                        await self._follow_logs(copies)
                except (StoreError, TimeoutError):
                    pass
                except Exception as error:  # noqa: BLE001  # it is a copy: a worker can do without, and tries again
                    if said != (said := described(error)):
                        log.error("what is kept for others cannot follow", why=said)  # noqa: TRY400  # one line
                await asyncio.sleep(RETRY_S)
        finally:
            self._close(copies)

    async def _follow_logs(self, copies: list[Replica]) -> None:
        for copy in copies:
            if not copy.store.is_open:
                copy.store.open()
        of = {copy.place: copy for copy in copies}
        async with self.reader.consumer(of) as consumer:
            await self.restorer.seek(consumer, copies)
            while True:
                await self.restorer.replay_some(consumer, of, of)
