"""A store that copies a changelog partition.

The module decides which records count, and applies them to the store.
"""

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

PLAIN = frozenset({ATTEMPTS, DEAD})  # a record has the whole value of its key, as with rows
CONTROL = frozenset({PROCESSED, WHOLE})  # a store keeps them unchanged


@dataclass(eq=False)
class Replica:
    """A store together with the changelog partition that it copies.

    *home* is the changelog partition as it is now, *source* the source topic of the state.
    """

    home: ChangelogPartition
    source: str
    store: Store
    owner: str = ""  # of the first claim with the newest epoch
    owner_epoch: int = -1
    rows: int = 0  # replayed
    stale: int = 0  # records ignored because their writer had lost the partition
    lacks: str = ""  # description of what the store has and the changelog has lost

    @property
    def topic(self) -> str:
        """Return the changelog topic."""
        return self.home.topic

    @property
    def partition(self) -> int:
        """Return the partition number, which is also that of the source."""
        return self.home.partition

    @cached_property
    def _unreadable(self) -> set[bytes]:
        """Return the keys whose newest record cannot be decoded."""
        return {key.removeprefix(UNREADABLE) for key, _ in self.store.items(UNREADABLE)}

    @property
    def place(self) -> TopicPartition:
        """Return the changelog partition as a TopicPartition."""
        return TopicPartition(self.topic, self.partition)

    def replay(self, records: Sequence[Logged], position: int) -> None:
        """Apply *records* in order; the store then holds the log up to *position*.

        A record that no owner wrote changes nothing. One that has an owner's epoch and cannot be
        decoded makes the partition `unreadable`, until a later record of its key can be decoded.

        Raises StoreError.
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
        """Apply a *record* that is not a row.

        Returns the batch to continue with: *batch*, or a new one when *batch* had to be written.
        """
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
        """Return why the partition must not be processed, empty when it may be.

        The reason is a record that an owner wrote and that cannot be decoded.
        """
        found = next(self.store.items(UNREADABLE), None)
        return "" if found is None else found[1].decode("utf-8", "backslashreplace")

    def _left_alone(self, batch: Any, record: Logged, epoch: int, why: str) -> Any:
        """Note a record that does not count, and return the batch to continue with.

        Its writer has lost the partition or never had it, or the record cannot be decoded; *why* is
        the reason for the latter. `Checkpointer.start` later writes the store's value of its key to
        the log again.

        Compaction may already have removed that value, if the record has an owner's epoch and is a
        pack or the source position. If the store has no value either, the partition becomes
        `unreadable`.
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
        """Apply a tombstone of a pack or a control record, or a reset.

        A reset empties the store. Marks of a pack stay if their events were seen again since.
        """
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
