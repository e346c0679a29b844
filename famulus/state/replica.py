"""A store that copies a partition of a changelog: what each record does to it, and which records count."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aiokafka import TopicPartition

from famulus.kafka.stray_counts import strays
from famulus.serialization.stray_records import StrayRecordError
from famulus.state.changelog import (
    ATTEMPTS,
    CLAIM,
    DEAD,
    PACK,
    PACK_KEY_BYTES,
    PROCESSED,
    RESET,
    ROW,
    WHOLE,
    Logged,
    OwnershipClaim,
    decode_claim,
    epoch_bytes,
    epoch_of,
    fault_in,
    unpack,
)
from famulus.state.identity import ChangelogPartition
from famulus.state.rocksdb_store import STALE, UNREADABLE, Store

PLAIN = frozenset({ATTEMPTS, DEAD})  # whose records say all of a key, as rows do
CONTROL = frozenset({PROCESSED, WHOLE})  # which a store keeps as they are


@dataclass(eq=False)
class Replica:
    """A store and the changelog partition that it copies, whose *home* is there now.

    *source* is what it is of.
    """

    home: ChangelogPartition
    source: str
    store: Store
    owner: str = ""  # of the first claim with the newest epoch
    owner_epoch: int = -1
    rows: int = 0  # replayed
    stale: int = 0  # records that were ignored, because their writer had lost the partition
    lacks: str = ""  # what the changelog has no more and the store has, in words

    @property
    def topic(self) -> str:
        """The changelog."""
        return self.home.topic

    @property
    def partition(self) -> int:
        """Its partition, and the source's."""
        return self.home.partition

    @cached_property
    def _unreadable(self) -> set[bytes]:
        """The keys of which the newest record cannot be read."""
        return {key.removeprefix(UNREADABLE) for key, _ in self.store.items(UNREADABLE)}

    @property
    def place(self) -> TopicPartition:
        """The changelog partition."""
        return TopicPartition(self.topic, self.partition)

    def replay(self, records: Sequence[Logged], position: int) -> None:
        """Apply *records* in their order; the store then holds the log up to *position*.

        Raises StoreError.

        A record that is none of an owner's changes nothing. One that has an owner's epoch and
        cannot be read is noted as `unreadable`, until a later one of its key can.
        """
        batch = self.store.batch()
        epoch = self.store.epoch
        current = epoch_bytes(epoch) if epoch else None
        for record in records:
            key, value = record.key, record.value
            written = record.headers[0][1] if record.headers else b""
            if written != current:
                found = epoch_of(record.headers)
                why = fault_in(key, value, found)
                if why or found < epoch:
                    batch = self._left_alone(batch, record, epoch, why)
                    continue
                epoch, current = found, written
            if key and key[:1] == ROW:
                self.rows += 1
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            elif why := fault_in(key, value, epoch):
                batch = self._left_alone(batch, record, epoch, why)
            else:
                batch = self._apply(batch, record, epoch)
        self.store.write(batch, position, epoch)

    def _apply(self, batch: Any, record: Logged, epoch: int) -> Any:
        """Put into *batch* what *record* says, which is no row; returns the batch to go on with."""
        key, value = record.key, record.value
        if key in self._unreadable:
            self._unreadable.discard(key)
            batch.delete(UNREADABLE + key)
        if key[:1] in PLAIN:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        elif key[:1] == PACK and value is not None:
            batch.put(key, value)
            for mark, seen in unpack(value):
                batch.put(mark, seen)
        elif key in CONTROL and value is not None:
            batch.put(key, value)
        elif key == CLAIM and value is not None:
            self._claimed(decode_claim(value))
        else:
            self.store.write(batch, record.offset - 1, epoch)
            self._remove(key)
            return self.store.batch()
        return batch

    @property
    def unreadable(self) -> str:
        """Why the partition must not be worked on: what its owner wrote cannot be read.

        Empty when it may be.
        """
        found = next(self.store.items(UNREADABLE), None)
        return "" if found is None else found[1].decode("utf-8", "backslashreplace")

    def _left_alone(self, batch: Any, record: Logged, epoch: int, why: str) -> Any:
        """Note a record that does not count; returns the batch to go on with.

        Its writer has not, or never had, the partition, or it cannot be read, and says *why*. What
        is known under its key is to overrule it. Where nothing is, and it is an owner's by its
        epoch, compaction may have removed what was: a pack, or how far the source is processed.
        Then the partition is `unreadable`.
        """
        key, is_owners = record.key, epoch_of(record.headers) >= max(epoch, 1)
        if why:
            self._say(record, why)
        self.stale += not is_owners
        if is_owners and (
            key == PROCESSED or (key and key[:1] == PACK and len(key) == PACK_KEY_BYTES)
        ):
            self.store.write(batch, record.offset - 1, epoch)
            batch = self.store.batch()
            if self.store.get(key) is None:
                self._unreadable.add(key)
                batch.put(
                    UNREADABLE + key,
                    f"{self.topic}/{self.partition}/{record.offset}: {why}".encode(),
                )
                return batch
        if key and key not in {CLAIM, RESET}:
            batch.put(STALE + key, b"")
        return batch

    def _say(self, record: Logged, why: str) -> None:
        strays.note("state", StrayRecordError(self.topic, self.partition, record.offset, why))

    def _claimed(self, claim: OwnershipClaim) -> None:
        if claim.epoch > self.owner_epoch:
            self.owner, self.owner_epoch = claim.owner, claim.epoch

    def _remove(self, key: bytes) -> None:
        """A pack with its marks, unless the events were seen again since; a control record; or everything."""
        if key == RESET:
            epoch = self.store.epoch
            self._unreadable.clear()
            self.store.wipe()
            self.store.epoch = epoch
        elif (value := self.store.get(key)) is not None:
            batch = self.store.batch()
            forget(self.store, batch, [value] if key[:1] == PACK else [])
            batch.delete(key)
            self.store.write(batch, self.store.position, self.store.epoch)


def forget(store: Store, batch: Any, packs: Iterable[bytes]) -> None:
    """Delete the marks of *packs* in *batch*, unless their events were seen again since."""
    for value in packs:
        marks = list(unpack(value))
        for (key, mark), now in zip(marks, store.get_many([key for key, _ in marks]), strict=True):
            if now == mark:
                batch.delete(key)
