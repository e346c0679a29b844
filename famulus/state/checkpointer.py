"""The group commit: everything that a group of events did, durable in one piece.

Kafka appends a record batch whole or not at all. So a group's rows, marks and how far the source is
processed go out as one record batch, and when Kafka has it, into the store as one write. The order
is the promise:

1. the events that the group publishes are acknowledged,
2. the record batch is acknowledged,
3. the store is written,
4. and only then do the group's offsets count as finished.

What Kafka did with a batch whose acknowledgement never came nobody can tell, so such a group is
never made again: the process ends, and whoever has the partition next learns it from the log.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import structlog

from famulus.errors import ConfigError, InvariantError
from famulus.kafka.stray_counts import strays
from famulus.serialization.stray_records import StrayRecordError
from famulus.state.changelog import (
    BATCH_BYTES,
    CLAIM,
    PACK,
    PROCESSED,
    RECORD_OVERHEAD,
    Logged,
    Row,
    SourcePosition,
    batches,
    decode_claim,
    encode,
    epoch_headers,
    epoch_of,
    fault_in,
    newest_ms,
    pack,
    pack_key,
    unpack,
)
from famulus.state.changelog_topic import Reader, Sender
from famulus.state.dedupe import Dedupe
from famulus.state.expiry import Expiry
from famulus.state.identity import is_other, restore_or_replay
from famulus.state.partition_state import Checkpoint, Rows
from famulus.state.replica import Replica, forget
from famulus.state.rocksdb_store import STALE, StoreError
from famulus.state.windows import Window

log = structlog.get_logger()
RETRY_S = 1.0  # between two tries to write to a disk that is full
Probe = Callable[[str], None]


class FencedError(InvariantError):
    """Another worker has claimed the partition: what this one had in hand counts no more (exit 70)."""


class Checkpointer:
    """Settles the groups of one partition under one claim.

    *probe* is told each step, for tests that die there.
    """

    def __init__(  # noqa: PLR0917  # all that it joins
        self,
        replica: Replica,
        dedupe: Dedupe | None,
        windows: Mapping[bytes, Window],
        sender: Sender,
        reader: Reader,
        probe: Probe = lambda _: None,
        *,
        is_fenced: bool = True,
    ) -> None:
        self._replica = replica
        self.topic = replica.topic
        self.partition = replica.partition
        self.store = store = replica.store
        self._dedupe = dedupe
        self._expiry = Expiry(store, dedupe, windows)
        self._sender = sender
        self._reader = reader
        self._probe = probe
        self._is_fenced = is_fenced
        self._epoch = store.epoch
        self._headers = epoch_headers(store.epoch)
        self._packs = 0
        self.unwritten = ""  # why the disk takes nothing, empty while it does

    async def settle(
        self, group: Checkpoint, processed: SourcePosition, may_apply: Callable[[], bool]
    ) -> bool:
        """Make *group* durable, and that the source is *processed* so far.

        *may_apply* is asked last: the partition may have been taken away meanwhile. False when it
        was; nothing was written to the store then, and whoever has the partition now decides by the
        log. Raises FencedError, and what the sender raises.
        """
        packs, so_far = self._packed(group), encode(processed)
        forgotten = self._expiry.packs(processed.stream_ms)
        for key in self._expiry.rows(processed.stream_ms, BATCH_BYTES - group.size - len(so_far)):
            if key not in group.rows:
                group.rows[key] = None
                group.size += len(key) + RECORD_OVERHEAD
        self._expiry.written(group.rows, packs)
        rows: Rows = {**group.rows, **packs, **dict.fromkeys(forgotten), PROCESSED: so_far}
        self._probe("sending")
        sent = await self._sender.send_batch(
            self.topic, self.partition, rows.items(), self._headers
        )
        self._probe("sent")
        first = await sent
        self._probe("acknowledged")
        if not may_apply():
            return False
        last = first + len(rows) - 1
        if first != self.store.position + 1 and self._is_fenced:
            last = await self._find_out(rows)

        def new_batch() -> Any:
            batch = self.store.batch()
            # First: an event that came again has a new mark in the group.
            forget(self.store, batch, forgotten.values())
            fill(batch, rows)
            fill(batch, group.marks)
            return batch

        return await self._write(new_batch, last, may_apply)

    async def start(self) -> None:
        """Overrule what workers without a claim wrote while nobody looked.

        Raises what the sender raises.
        """
        stale = [key for key, _ in self.store.items(STALE)]
        await self.repair(key.removeprefix(STALE) for key in stale)
        if stale:
            batch = self.store.batch()
            for key in stale:
                batch.delete(key)
            self.store.write(batch, self.store.position, self._epoch)

    async def repair(self, keys: Iterable[bytes], sent: Rows | None = None) -> None:
        """Write again what we know under *keys*, which a worker without a claim has written to.

        Else compaction might keep what that one wrote. What was *sent* is newer than the store. As
        many record batches as it takes: each record says all of its key. Raises what the sender
        raises.
        """
        sent = sent or {}
        known = ((key, sent[key] if key in sent else self._present(key, sent)) for key in keys)
        for rows in batches(known, BATCH_BYTES):
            await self._overrule(rows)

    async def _overrule(self, rows: Collection[Row]) -> None:
        log.warning(
            "records of a worker without a claim are overruled",
            topic=self.topic,
            partition=self.partition,
            records=len(rows),
        )
        await (await self._sender.send_batch(self.topic, self.partition, rows, self._headers))

    def _present(self, key: bytes, sent: Rows) -> bytes | None:
        """What we know under *key*; of a pack without the marks that were renewed since, which it would set back."""
        value = self.store.get(key)
        if value is None or key[:1] != PACK:
            return value
        renewed = {
            mark for other, of in sent.items() if other[:1] == PACK and of for mark, _ in unpack(of)
        }
        marks = dict(unpack(value))
        now = zip(marks.items(), self.store.get_many(list(marks)), strict=True)
        return pack(
            {mark: seen for (mark, seen), stored in now if stored == seen and mark not in renewed}
        )

    async def _find_out(self, sent: Rows) -> int:
        """Somebody else wrote: read what.

        Returns the offset of our newest record, of those just *sent*.

        Raises FencedError when the partition was claimed, ConfigError when the changelog is another
        one. Other records are those of a worker that has lost it.
        """
        home = self._replica.home
        now = (await self._sender.topics([self.topic])).of.get(self.topic)
        if now is None or is_other(home.topic_id, now.id):
            raise ConfigError(
                f"{home}: the changelog was deleted and made anew while this worker wrote to it; "
                f"{restore_or_replay(self._replica.source)}"
            )
        last, stale = -1, set()
        for record in await self._reader.read(self.topic, self.partition, self.store.position + 1):
            epoch = epoch_of(record.headers)
            if why := fault_in(record.key, record.value, epoch):
                strays.note(
                    "state", StrayRecordError(self.topic, self.partition, record.offset, why)
                )
            elif epoch > self._epoch:
                raise FencedError(self._why_fenced(record, epoch))
            if epoch == self._epoch and not why:
                last = record.offset
            elif record.key and record.key != CLAIM:
                stale.add(record.key)
        assert last >= 0, "a batch that was acknowledged is not in the log"
        await self.repair(stale, sent)
        return last

    def _why_fenced(self, record: Logged, epoch: int) -> str:
        """Say who has the partition, by a *record* of a higher *epoch*."""
        is_claim = record.key == CLAIM and record.value is not None
        who = (
            decode_claim(record.value).worker
            if is_claim and record.value
            else "a writer without a claim"
        )
        return (
            f"{self.topic}-{self.partition} was claimed by {who} while this worker was away "
            f"(epoch {epoch}, ours {self._epoch}); what was in hand is left to it"
        )

    async def _write(
        self, new_batch: Callable[[], Any], position: int, may_apply: Callable[[], bool]
    ) -> bool:
        """Write to the store, again and again while the disk does not take it: nothing is finished before it has.

        A batch can be written once, also when that failed, so each try has a *new_batch*. The store
        can be read meanwhile, unless the disk does not even let it be opened anew. Raises
        InvariantError when it was put aside then: what was in it is only in the changelog.
        """
        before, is_first = self.store.position, True
        while may_apply():
            try:
                if not is_first:
                    self.store.reopen()
                    # The latter: it was written after all.
                    if self.store.position not in {before, position}:
                        raise InvariantError(
                            f"the state of {self.topic}-{self.partition} is not what it was "
                            "when the disk was full; "
                            "it is rebuilt at the next start"
                        )
                is_first = False
                self.store.write(new_batch(), position, self._epoch)
            except StoreError as error:
                self._refused(str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self._refused("")
                self._probe("written")
                return True
        return False

    def _refused(self, why: str) -> None:
        """Note *why* the disk takes nothing, empty when it does, and say each change once."""
        if why and why != self.unwritten:
            log.error(
                "nothing is settled until the disk takes it", error=why, again_every_s=RETRY_S
            )
        elif self.unwritten and not why:
            log.warning("the disk takes it again", topic=self.topic, partition=self.partition)
        self.unwritten = why

    def _packed(self, group: Checkpoint) -> dict[bytes, bytes]:
        """The marks of *group* as a pack, of the period that its newest one belongs to."""
        if not group.marks or self._dedupe is None:
            return {}
        self._packs += 1
        newest = newest_ms(group.marks)
        return {
            pack_key(newest - newest % self._dedupe.period_ms, self._epoch, self._packs): pack(
                group.marks
            )
        }


def fill(batch: Any, rows: Mapping[bytes, bytes | None]) -> None:
    """Put *rows* into a WriteBatch as they are in the changelog."""
    put, delete = batch.put, batch.delete
    for key, value in rows.items():
        if value is None:
            delete(key)
        else:
            put(key, value)
