"""A settler on a real store and a log in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from famulus.state.changelog import (
    CLAIM,
    RECORD_OVERHEAD,
    OwnershipClaim,
    SeenMark,
    SourcePosition,
    encode,
    epoch_headers,
    store_mark,
)
from famulus.state.checkpointer import Checkpointer
from famulus.state.dedupe import Dedupe
from famulus.state.partition_state import Checkpoint
from famulus.state.replica import Replica
from famulus.state.restore import Restorer
from famulus.state.rocksdb_store import Memory, Store
from famulus.state.windows import Window
from tests.support.in_memory.log import Fold, Log, Sending, Wire, kept

MEMORY = Memory.of(8, 8)


class Desk:
    """A partition that was claimed: its log, store and settler.

    *steps* notes what happened, in order.
    """

    def __init__(
        self,
        path: Path,
        log: Log | None = None,
        *,
        sendings: Iterable[Sending] = (),
        dedupe: Dedupe | None = None,
        windows: Mapping[bytes, Window] | None = None,
    ) -> None:
        self.log = log or Log()
        self.steps: list[str] = []
        self.wire = Wire(self.log, [], sendings)
        self.store = Store(path, MEMORY)
        self.replica = Replica(self.log.home, "t", self.store)
        self._dedupe = dedupe
        self._windows = windows or {}
        self.checkpointer: Checkpointer

    async def claim(self) -> "Desk":
        """Restore and claim, as a worker does."""
        reader: Any = self.log
        assert await Restorer(reader, Wire(self.log, []), 24).acquire([self.replica], lambda: True)
        self.checkpointer = Checkpointer(
            self.replica,
            self._dedupe,
            self._windows,
            sender=self.wire,
            reader=reader,
            probe=self.steps.append,
        )
        await self.checkpointer.start()
        return self

    async def settle(
        self,
        rows: Mapping[bytes, bytes | None] | None = None,
        marks: Mapping[bytes, SeenMark] | None = None,
        stream_ms: int = 0,
        *,
        may_apply: bool = True,
    ) -> bool:
        """Settle a group."""
        group = Checkpoint()
        group.rows.update(rows or {})
        group.marks.update({key: store_mark(*mark) for key, mark in (marks or {}).items()})
        return await self.checkpointer.settle(
            group, SourcePosition(1, stream_ms=stream_ms), lambda: may_apply
        )

    @property
    def kept(self) -> Fold:
        """What is in the store."""
        return kept(self.store)

    @property
    def largest_batch(self) -> int:
        """Bytes of the largest record batch that was sent, as they are counted."""
        return max(
            sum(len(k) + len(v or b"") + RECORD_OVERHEAD for k, v in rows)
            for rows in self.wire.batches
        )

    def claimed_by_other(self, epoch: int) -> None:
        """Somebody else claims."""
        self.log.append(
            [(CLAIM, encode(OwnershipClaim(epoch, "other", "other:1")))], epoch_headers(epoch)
        )
