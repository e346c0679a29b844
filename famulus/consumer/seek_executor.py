"""Operator seeks, executed while partitions are assigned.

No event is in flight then. For a seek that arrives later, the worker joins its group again. The
steps are: one write to the state with the new position and the ID of the seek, then the group's
commit, then the tombstone in the admin topic. A worker that dies in between leaves the seek for the
next owner of the partition. A state that already knows the ID is not moved again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import structlog
from faust.types import TP

from famulus.control.admin_topic import AdminLog
from famulus.control.seek_planner import done
from famulus.control.seeks import SeekId, Seeks
from famulus.producer.producer import Producer
from famulus.state.changelog import SourcePosition
from famulus.state.failure_state import attempts_row
from famulus.state.manager import OwnedPartition
from famulus.state.partition_state import Checkpoint
from famulus.wall_clock import wall_ms

log = structlog.get_logger()
COMMIT_TRIES, COMMIT_AGAIN_S = 20, 0.25
Commit = Callable[[Mapping[TP, int]], Awaitable[bool]]


class PendingSeek(NamedTuple):
    """A seek of one partition, with the admin topic keys that it settles.

    *names* has its own key and those of older seeks.
    """

    id: str
    offset: int
    names: list[SeekId]


class SeekExecutor:
    """Executes the pending *seeks*, which *admin_log* keeps up to date.

    *sender* writes to the admin topic of *group* that a seek is done.
    """

    def __init__(self, seeks: Seeks, admin_log: AdminLog, sender: Producer, group: str) -> None:
        self._seeks = seeks
        self._admin_log = admin_log
        self._sender = sender
        self._group = group

    def is_due(self, tp: TP) -> bool:
        """Return whether a seek is pending for a partition."""
        return self._seeks.newest(tp.topic, tp.partition) is not None

    async def due(self, held: Mapping[TP, OwnedPartition]) -> dict[TP, PendingSeek]:
        """Return the newest pending seek of each partition in *held*.

        Reads the admin topic to its end first. Raises UnavailableError.
        """
        if not any(map(self.is_due, held)):
            return {}
        await self._admin_log.catch_up()  # the last owner may have executed it a moment ago
        found = {tp: self._seeks.newest(tp.topic, tp.partition) for tp in held}
        return {
            tp: PendingSeek(order[0].id, order[1].offset, self._seeks.names(tp.topic, tp.partition))
            for tp, order in found.items()
            if order is not None
        }

    async def carry_out(
        self,
        orders: Mapping[TP, PendingSeek],
        held: Mapping[TP, OwnedPartition],
        spans: Mapping[TP, tuple[int, int]],
        commit: Commit,
    ) -> None:
        """Move the partitions to the offsets of *orders*, within the bounds of their logs.

        *spans* has the begin and end of each log. Raises what the checkpointer and the sender
        raise. A seek stays pending when its *commit* fails, or when the partition is revoked
        meanwhile.
        """
        positions: dict[TP, int] = {}
        for tp, order in orders.items():
            begin, end = spans[tp]
            to = min(max(order.offset, begin), end)
            if to != order.offset:
                log.warning(
                    "the log does not reach there any more",
                    topic=tp.topic,
                    partition=tp.partition,
                    ordered=order.offset,
                    goes_on_at=to,
                )
            at = await self._moved(tp, held[tp], order.id, to)
            if at is None:
                return
            positions[tp] = at
        for _ in range(COMMIT_TRIES):
            is_committed = await commit(positions)
            if any(held[tp].partition.is_abandoned for tp in orders):
                return
            if is_committed:
                break
            await asyncio.sleep(COMMIT_AGAIN_S)
        else:
            return
        names = [name for order in orders.values() for name in order.names]
        await done(self._sender, self._group, names)
        self._seeks.forget(names)

    @staticmethod
    async def _moved(tp: TP, held: OwnedPartition, identity: str, to: int) -> int | None:
        """Move the state to offset *to* and return where reading continues.

        When this seek was executed before, the state may be further. Returns None when the
        partition was revoked.
        """
        partition, checkpointer = held.partition, held.checkpointer
        if partition.is_abandoned:
            return None
        if checkpointer is None:
            return to
        before = partition.processed or SourcePosition(0)
        if before.seek != identity:
            after = SourcePosition(
                to,
                (),
                before.stream_ms,
                wall_ms(),
                before.counts,
                identity,
                partition.home,
                partition.source_id,
            )
            group = Checkpoint()
            for offset in [offset for offset in partition.failure_state.attempts if offset < to]:
                partition.failure_state.tried(offset)  # it is skipped, so no attempt follows
                group.rows.update([attempts_row(offset, None)])
            if not await checkpointer.settle(group, after, lambda: not partition.is_abandoned):
                return None
            partition.processed = after
            log.warning(
                "reading goes on elsewhere",
                topic=tp.topic,
                partition=tp.partition,
                goes_on_at=to,
                was_at=before.next_offset,
            )
            return to
        return before.next_offset
