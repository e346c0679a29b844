"""`state verify`: compare the local stores with the changelogs.

The comparison uses an independent implementation of the fold.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rocksdict
from aiokafka import TopicPartition

from famulus.application import Famulus
from famulus.errors import ConfigError
from famulus.inspection.changelog_reader import Fold, Logs, Progressed, places_of, reading
from famulus.processing.subscription import Subscription
from famulus.state.changelog import (
    ATTEMPTS,
    CLAIM,
    DEAD,
    MARK,
    PACK,
    PROCESSED,
    ROW,
    offset_of,
    period_of,
    table_and_key,
    unpack,
)
from famulus.state.rocksdb_store import DAMAGED, EPOCH, POSITION


@dataclass(frozen=True)
class Verdict:
    """Result for one partition, with the differences between changelog and store.

    *position* is that of the store, None when there is no store or it cannot be read. *unreadable*
    counts, by table, the rows that do not fit their table's types.
    """

    at: TopicPartition
    rows: int
    marks: int
    epoch: int
    end: int  # of the changelog
    position: int | None
    differences: list[str]
    unreadable: Counter[str] = field(default_factory=Counter)


async def verified(
    app: Famulus, subscriptions: Iterable[Subscription], progressed: Progressed
) -> list[Verdict]:
    """Compare the store of each partition with its changelog.

    A store that is behind the changelog is compared with the changelog up to the store's position.
    Raises ConfigError while a worker uses the folder, UnavailableError without a broker.
    """
    lock_folder(app, "verify its state")
    places = await places_of(app, subscriptions)
    async with reading(app) as logs:
        return [
            await _verdict(app, subscription, at, logs, progressed)
            for subscription in places
            for at in places[subscription]
        ]


async def _verdict(
    app: Famulus, subscription: Subscription, at: TopicPartition, logs: Logs, progressed: Progressed
) -> Verdict:
    store: dict[bytes, bytes] | None = None
    position, found = None, []
    path = app.folder.store_path(at.topic, at.partition)
    if path.exists():
        try:
            store = stored(path)
        except Exception as error:  # rocksdict raises a bare Exception
            found = [f"the store cannot be read: {error}"]
        else:
            position = int(store.get(POSITION, b"-1"))
    fold = await logs.fold(at, progressed, until=position)
    if store is not None and position is not None:
        found = differences(subscription, fold, store, position)
    return Verdict(
        at,
        len(fold.rows),
        len(fold.marks),
        fold.epoch,
        fold.end,
        position,
        found,
        unreadable_rows(subscription, fold),
    )


def unreadable_rows(subscription: Subscription, fold: Fold) -> Counter[str]:
    """Count, by table, the rows that do not fit their table's types."""
    found: Counter[str] = Counter()
    for row, value in fold.rows.items():
        name, key = table_and_key(row)
        table = subscription.tables.get(name)
        if table is not None and table.fault(key, value):
            found[name] += 1
    return found


def lock_folder(app: Famulus, why: str) -> None:
    """Lock the state folder, so that no worker uses the stores.

    Raises ConfigError while a worker uses them; the error names the purpose *why*.
    """
    if app.folder.path.exists():
        try:
            app.folder.lock()
        except ConfigError as error:
            raise ConfigError(f"{error}; to {why}, stop that worker first") from None


def stored(path: Path) -> dict[bytes, bytes]:
    """Return all entries of a store, opened for reading only.

    Raises OSError when the store is marked as damaged, and the errors of RocksDB.
    """
    if (path / DAMAGED).exists():
        raise OSError("it is marked as damaged, and rebuilt at the next start")
    db: Any = rocksdict.Rdict(
        str(path), rocksdict.Options(raw_mode=True), access_type=rocksdict.AccessType.read_only()
    )
    try:
        return dict(db.items())
    finally:
        db.close()


def differences(
    subscription: Subscription, fold: Fold, store: dict[bytes, bytes], position: int
) -> list[str]:
    """Return the differences between store and changelog, one line each.

    The lines have keys but no values.
    """
    if position >= fold.end:
        return [f"the store is at {position}, the log ends at {fold.end}"]
    if 0 <= position < fold.begin - 1:
        return [f"the store is at {position}, the log begins at {fold.begin}"]
    expected = {key: value for key, value in _expected(fold).items() if value is not None}
    store.setdefault(EPOCH, b"0")
    excused = _excused(fold, store)
    if CLAIM in fold.later:
        del expected[EPOCH]
        excused.add(EPOCH)
    found = []
    for key in sorted(expected.keys() | _state_keys(store)):
        logged, there = expected.get(key), store.get(key)
        if logged == there or (logged is None and key in excused):
            continue
        where = (
            "differs"
            if None not in (logged, there)
            else "is only in the log"
            if there is None
            else "is only here"
        )
        found.append(f"{_name(subscription, key)} {where}")
    return found


def _expected(fold: Fold) -> dict[bytes, bytes | None]:
    """Return the entries of a store that is at the end of the fold."""
    return {
        **fold.rows,
        **fold.packs,
        **fold.marks,
        **fold.failure_state,
        PROCESSED: fold.processed,
        EPOCH: b"%d" % fold.epoch,
    }


def _excused(fold: Fold, store: dict[bytes, bytes]) -> set[bytes]:
    """Return keys that a lagging store may hold although compaction removed them from the log.

    Their records were overwritten after the store's position.
    """
    packs = [key for key in fold.later if key[:1] == PACK and key not in fold.packs]
    marks = {mark for key in packs for mark, _ in unpack(store.get(key, b""))}
    return fold.later | marks


def _state_keys(store: dict[bytes, bytes]) -> Iterator[bytes]:
    """Return the keys of a store that the changelog has too; others are the store's own."""
    return (
        key
        for key in store
        if key[:1] in (ROW, PACK, MARK, ATTEMPTS, DEAD) or key in (PROCESSED, EPOCH)
    )


def _name(subscription: Subscription, key: bytes) -> str:
    if key[:1] == ROW:
        name, inner = table_and_key(key)
        table = subscription.tables.get(name)
        return f"row {name}/{table.key_text(inner) if table is not None else inner.decode('utf-8', 'backslashreplace')}"
    if key[:1] == MARK:
        return f"mark {key[1:].hex()}"
    if key[:1] == PACK:
        return f"pack of {period_of(key)}"
    if key[:1] in (ATTEMPTS, DEAD):
        return (
            f"{'attempts at' if key[:1] == ATTEMPTS else 'dead letter of'} offset {offset_of(key)}"
        )
    return "the processed row" if key == PROCESSED else "the epoch"
