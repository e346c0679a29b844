"""`state restore-changelog`: a changelog that was deleted, made anew or truncated is written again from a whole store.

What the log says and the store does not is deleted there, by tombstones: the log is made to say
what the store does. A start is refused until that has ended, see `storage.back`.
"""

from collections.abc import Iterable, Iterator
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
from famulus.kafka.group_members import check_empty
from famulus.processing.subscription import Subscription
from famulus.state.changelog import decode_processed
from famulus.state.changelog_repair import write_back
from famulus.state.changelog_topic import append_claim
from famulus.state.identity import ChangelogPartition, check_place, is_other, replay
from famulus.state.replica import Replica
from famulus.state.rocksdb_store import Memory, Store, StoreError

CACHE_MIB, BUFFER_MIB = 8, 8  # a store is read once


@dataclass(frozen=True)
class Restored:
    """What became of one partition: how many records were *written*, or *why* none were."""

    at: TopicPartition
    written: int = 0
    why: str = ""


async def restored(
    app: Famulus, subscription: Subscription, partition: int | None, progressed: Progressed
) -> list[Restored]:
    """Write the changelog of *subscription*, or one *partition* of it, from the stores of this machine.

    Raises ConfigError while a worker uses the state folder, while the group has members, when there
    is no such partition, no store, or one of another place; UnavailableError without a broker;
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
        return [await _restored(app, here, n, logs, progressed) for n in stores]


async def _restored(
    app: Famulus, here: Belonging, partition: int, logs: Logs, progressed: Progressed
) -> Restored:
    home = here.home(partition)
    at = TopicPartition(home.topic, partition)
    path = app.folder.store_path(home.topic, partition)
    store = Store(path, Memory.of(CACHE_MIB, BUFFER_MIB))
    try:
        store.open()
        if store.home is not None:
            check_place(store.home, home, path)
        fold = await logs.fold(at)
        if why := _needless(store, home, fold, here.subscription.topic_name):
            return Restored(at, why=why)
        store.epoch = max(fold.epoch, store.epoch) + 1
        await append_claim(app.sender, at.topic, partition, store.epoch)
        replica = Replica(home, here.subscription.topic_name, store)
        return Restored(at, await write_back(app.sender, replica, _stale(fold, store), progressed))
    except StoreError as error:
        raise ConfigError(str(error)) from None
    finally:
        store.close()


def _needless(store: Store, home: ChangelogPartition, fold: Fold, source: str) -> str:
    """Why the log is not to be written from the store, "" when it is."""
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
    """What the log has and the store has not."""
    of: Iterable[bytes]
    for of in (fold.rows, fold.packs, fold.failure_state, fold.unreadable):
        yield from (key for key in of if store.get(key) is None)
