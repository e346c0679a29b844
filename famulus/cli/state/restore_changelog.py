"""`state restore-changelog`: write a damaged changelog again from a complete store.

The changelog was deleted, created again or truncated. Records that the changelog has and the store
has not are deleted by tombstones, so that both have the same content. Until the end of the restore,
workers refuse to start, see `state.changelog_repair`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.cli.state.json_lines import prepare_state
from famulus.cli.state.verify import lock_folder
from famulus.errors import ConfigError
from famulus.inspection.changelog_reader import (
    Belonging,
    Fold,
    Logs,
    Progressed,
    answered,
    belonging,
    reading,
    source_partitions,
)
from famulus.kafka.group_members import check_empty, committed_of
from famulus.processing.subscription import Subscription
from famulus.state.changelog import PROCESSED, decode_processed
from famulus.state.changelog_repair import write_back
from famulus.state.changelog_topic import append_claim
from famulus.state.identity import ChangelogPartition, check_place, is_other, replay
from famulus.state.replica import Replica
from famulus.state.rocksdb_store import Memory, Store, StoreError

CACHE_MIB, BUFFER_MIB = 8, 8  # small, because a store is read only once
ELSEWHERE = (
    "run this on the machine that has a newer one; where none is left, --older takes this one, and "
    "what came after it is handled again as far as the source has it"
)


@dataclass(frozen=True)
class Restored:
    """Result for one partition: the number of records *written*, or *why* there are none.

    *is_older* means that the store is an older copy, so that the changelog has yet to be restored
    from a newer one.
    """

    at: TopicPartition
    written: int = 0
    why: str = ""
    is_older: bool = False


async def restored(
    app: Famulus,
    subscription: Subscription,
    partition: int | None,
    progressed: Progressed,
    *,
    takes_older: bool = False,
) -> list[Restored]:
    """Write the changelog of *subscription*, or one *partition*, from the local stores.

    A store is skipped unless *takes_older* when it is behind the group's commit, or belongs to an
    earlier source topic of that name, because another machine has a newer store.

    Raises ConfigError while a worker uses the state folder, while the group has members, when there
    is no such partition, no store, or a store of another place; UnavailableError without a broker;
    InvariantError when a worker writes meanwhile.
    """
    topic = subscription.state_topic
    if topic is None:
        raise ConfigError(f"topic {subscription.name} has no state")
    lock_folder(app, "write the changelog back")
    await check_empty(app.settings.kafka, app.settings.worker.startup_timeout_s)
    count = await source_partitions(app, subscription)
    if partition is not None and partition >= count:
        raise ConfigError(f"topic {subscription.topic_name} has {count} partitions, the first is 0")
    numbers = range(count) if partition is None else [partition]
    stores = [n for n in numbers if app.folder.store_path(topic, n).exists()]
    if not stores:
        raise ConfigError(
            f"there is no state of {topic} in {app.folder.path}: run this where the worker was "
            "that had it (its "
            f"Worker.DataDir); where none is left, {replay(subscription.topic_name)}"
        )
    await prepare_state(app, subscription, count, may_grow=False)
    async with answered(app), app.sender, reading(app) as logs:
        here = await belonging(app, subscription)
        sources = [TopicPartition(subscription.topic_name, n) for n in stores]
        committed = await committed_of(
            app.settings.kafka, sources, app.settings.worker.startup_timeout_s
        )
        restoring = Restoring(app, here, logs, committed, takes_older, progressed)
        return [await restoring.restored(n) for n in stores]


@dataclass(frozen=True)
class Restoring:
    """Writes the changelog partitions of one subscription from the local stores.

    *committed* has the offsets of the source that the group has committed.
    """

    app: Famulus
    here: Belonging
    logs: Logs
    committed: Mapping[TopicPartition, int | None]
    takes_older: bool
    progressed: Progressed

    async def restored(self, partition: int) -> Restored:
        """Write one *partition*, unless that is needless or its store is an older copy."""
        home = self.here.home(partition)
        source = self.here.subscription.topic_name
        at = TopicPartition(home.topic, partition)
        path = self.app.folder.store_path(home.topic, partition)
        store = Store(path, Memory.of(CACHE_MIB, BUFFER_MIB))
        try:
            store.open()
            if store.home is not None:
                check_place(store.home, home, path)
            fold = await self.logs.fold(at)
            if why := _needless(store, home, fold, source):
                return Restored(at, why=why)
            if why := await self._why_older(store, partition):
                return Restored(at, why=why, is_older=True)
            store.epoch = max(fold.epoch, store.epoch) + 1
            await append_claim(self.app.sender, at.topic, partition, store.epoch)
            replica = Replica(home, source, store)
            written = await write_back(
                self.app.sender, replica, _stale(fold, store), self.progressed
            )
            return Restored(at, written)
        except StoreError as error:
            raise ConfigError(str(error)) from None
        finally:
            store.close()

    async def _why_older(self, store: Store, partition: int) -> str:
        """Return why *store* may not be the newest of its partition, "" if it may be."""
        value = store.get(PROCESSED)
        if self.takes_older or value is None:
            return ""
        source = TopicPartition(self.here.subscription.topic_name, partition)
        position, committed = decode_processed(value), self.committed[source]
        if is_other(position.source_id, self.here.source_id):
            return (
                f"its state here is of {source.topic} before that was deleted and made anew; "
                f"{ELSEWHERE}"
            )
        is_behind = committed is not None and await self.logs.has_records(
            source, position.next_offset, committed
        )
        return (
            f"its state here ends at offset {position.next_offset} of the source, and the group "
            f"has committed {committed}; {ELSEWHERE}"
            if is_behind
            else ""
        )


def _needless(store: Store, home: ChangelogPartition, fold: Fold, source: str) -> str:
    """Return why the changelog is not to be written, "" when it is."""
    if store.position < 0:
        return "its state here is empty"
    is_former = store.home is not None and is_other(store.home.topic_id, home.topic_id)
    if not fold.is_whole:
        return ""
    if is_former:
        written = decode_processed(fold.processed).home if fold.processed is not None else None
        is_taken = written is not None and written.topic_id == home.topic_id
        return (
            f"the changelog was made anew, and others go on by it; {replay(source)}"
            if is_taken
            else ""
        )
    return "" if fold.end <= store.position else "the changelog is whole"


def _stale(fold: Fold, store: Store) -> Iterator[bytes]:
    """Yield the changelog's keys that the store does not have."""
    of: Iterable[bytes]
    for of in (fold.rows, fold.packs, fold.failure_state, fold.unreadable):
        yield from (key for key in of if store.get(key) is None)
