"""Going on elsewhere because an operator said so: the orders for this worker's partitions, carried out in between.

That is when partitions are assigned, so nothing is in hand; an order that comes later has the
worker join its group anew. In this order: the state says the new position and the order's name in
one write, the group's commit follows, and then the order counts as done. Whoever dies in between
leaves an order that the next owner of the partition finds; where the state knows its name, it is
not carried out again.
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
    """An order for a partition, and the *names* of those that are done with it: its own and those of older ones."""

    id: str
    offset: int
    names: list[SeekId]


class SeekExecutor:
    """Carries out the orders of *seeks*, which *admin_log* keeps; *sender* tells *group* what is done."""

    def __init__(self, seeks: Seeks, admin_log: AdminLog, sender: Producer, group: str) -> None:
        self._seeks = seeks
        self._admin_log = admin_log
        self._sender = sender
        self._group = group

    def is_due(self, tp: TP) -> bool:
        """Whether there is an order for a partition."""
        return self._seeks.newest(tp.topic, tp.partition) is not None

    async def due(self, held: Mapping[TP, OwnedPartition]) -> dict[TP, PendingSeek]:
        """The orders for partitions that this worker has. Raises UnavailableError."""
        if not any(map(self.is_due, held)):
            return {}
        await self._admin_log.catch_up()  # the last owner may have carried it out a moment ago
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
        """Have the partitions go on where *orders* say, as far as the logs reach by now (*spans*: begin and end).

        Raises what the state's settling and the sender raise. An order stays due when its *commit*
        fails, or when the partition is taken away meanwhile.
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
        """Where the partition goes on: there, or further where that was carried out before.

        None: it is not ours.
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
                partition.failure_state.tried(offset)  # nobody will try it again
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
