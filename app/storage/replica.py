"""A store that copies a partition of a changelog: what each record does to it, and which records count."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition

from app.storage.changelog import (
    ATTEMPTS,
    CLAIM,
    DEAD,
    PACK,
    PROCESSED,
    RESET,
    ROW,
    Claim,
    Logged,
    decode_claim,
    epoch_bytes,
    epoch_of,
    unpack,
)
from app.storage.store import STALE, Store

PLAIN = frozenset({ROW, ATTEMPTS, DEAD})  # whose records say all of a key


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
            if kind in PLAIN:
                self.rows += kind == ROW
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


def forget(store: Store, batch: Any, packs: Iterable[bytes]) -> None:
    """Delete the marks of *packs* in *batch*, unless their events were seen again since."""
    for value in packs:
        marks = list(unpack(value))
        for (key, mark), now in zip(marks, store.get_many([key for key, _ in marks]), strict=True):
            if now == mark:
                batch.delete(key)
