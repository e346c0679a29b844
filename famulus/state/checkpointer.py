"""Group commit: make all effects of many events durable in one record batch.

Kafka appends a record batch as a whole or not at all. A checkpoint's rows, marks and source
position therefore go out as one record batch, and once Kafka has it, into the store as one write.
The order is the guarantee:

1. the events that the checkpoint publishes are acknowledged,
2. the record batch is acknowledged,
3. the store is written,
4. and only then do the offsets of the checkpoint count as completed.

When a batch is never acknowledged, this process cannot know if Kafka has it. Such a checkpoint is
never sent again: the process ends, and the next owner of the partition learns the truth from the
log.
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
RETRY_S = 1.0  # between two attempts to write to a full disk
Probe = Callable[[str], None]


class FencedError(InvariantError):
    """The partition was claimed by another worker.

    Pending effects of this worker are void, and the process ends with exit code 70.
    """


class Checkpointer:
    """Writes the checkpoints of one partition under one claim.

    *probe* is called with the name of each step, for tests that kill the process there. *is_fenced*
    is False only in tests that show what goes wrong without fencing.
    """

    def __init__(
        self,
        replica: Replica,
        dedupe: Dedupe | None,
        windows: Mapping[bytes, Window],
        *,
        sender: Sender,
        reader: Reader,
        probe: Probe = lambda _: None,
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
        self.unwritten = ""  # why the disk refuses writes, empty while it accepts them

    async def settle(
        self, group: Checkpoint, processed: SourcePosition, may_apply: Callable[[], bool]
    ) -> bool:
        """Make *group* and the source position *processed* durable.

        *may_apply* is called right before the store is written, since the partition may have been
        revoked meanwhile. Returns False when it was: the store is not written, and the next owner
        of the partition decides by the log.

        Raises FencedError when another worker has claimed the partition, ConfigError when the
        changelog was deleted and created again, InvariantError when the store was put aside while
        its disk was full, and what the sender raises.
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
            # Deletes come first: a redelivered event may have a new mark in this checkpoint.
            forget(self.store, batch, forgotten.values())
            fill(batch, rows)
            fill(batch, group.marks)
            return batch

        return await self._write(new_batch, last, may_apply)

    async def start(self) -> None:
        """Supersede records that workers without a claim wrote before this worker took over.

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
        """Write the known values of *keys* again, after a worker without a claim wrote to them.

        Otherwise compaction might keep the values of that worker. Values in *sent* are newer than
        those in the store. Each record has the whole value of its key, so the records may take
        several batches. Raises what the sender raises.
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
        """Return the known value of *key*, None if there is none.

        A pack comes without the marks that were renewed since, because it would set them back.
        """
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
        """Read the log after the store's position, because another process wrote to it.

        Records of a worker that has lost the partition are superseded. Returns the offset of this
        worker's newest record, which is the last one of *sent*.

        Raises FencedError when the partition was claimed, and ConfigError when the changelog was
        deleted and created again.
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
        """Return a text that names the owner, from a *record* of a higher *epoch*."""
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
        """Write to the store, and retry until the disk accepts the write.

        No offset completes before. A batch can be written only once, even if that failed, so each
        try gets a *new_batch*. The store can be read meanwhile, unless the disk does not even let
        it be opened again.

        Returns False when *may_apply* turned false. Raises InvariantError when the store was put
        aside meanwhile, since its content is then only in the changelog.
        """
        before, is_first = self.store.position, True
        while may_apply():
            try:
                if not is_first:
                    self.store.reopen()
                    # At *position* if the failed write reached the disk after all.
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
        """Keep *why* the disk refuses writes, empty if it does not, and log each change once."""
        if why and why != self.unwritten:
            log.error(
                "nothing is settled until the disk takes it", error=why, again_every_s=RETRY_S
            )
        elif self.unwritten and not why:
            log.warning("the disk takes it again", topic=self.topic, partition=self.partition)
        self.unwritten = why

    def _packed(self, group: Checkpoint) -> dict[bytes, bytes]:
        """Return the marks of *group* as one pack, by its key.

        The pack belongs to the period of its newest mark. The result is empty without marks.
        """
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
    """Put *rows* into a WriteBatch with the keys and values that they have in the changelog."""
    put, delete = batch.put, batch.delete
    for key, value in rows.items():
        if value is None:
            delete(key)
        else:
            put(key, value)
