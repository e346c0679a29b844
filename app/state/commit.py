"""Settling a group: events published and changelogs written and acknowledged, then the stores, then nothing is owed.

The order is the promise. A failure before the stores are written settles nothing: the offsets stay where they are and
the events come again. What was published then is recognised by its id.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from app.state.group import Group
from app.state.tables import Table
from app.wire.envelope import Outgoing


class Sender(Protocol):
    """The way to Kafka, injected: `publish.producer.Producer` has this shape."""

    async def send_all(self, records: Sequence[Outgoing]) -> object:
        """Send all and wait until the cluster has them."""

    async def send_rows(self, topic: str, partition: int, rows: Iterable[tuple[bytes, bytes | None]]) -> int:
        """Append rows to one partition, wait, and return the offset of the last one."""


async def settle(
    group: Group, tables: Mapping[str, Table[object, object]], sender: Sender, may_apply: Callable[[], bool]
) -> None:
    """Make the effects of *group* durable. Raises what the *sender* raises; then nothing was written to the stores.

    *may_apply* is asked last: the stores may have been taken away while Kafka acknowledged.
    """
    if group.outbox:
        await sender.send_all(group.outbox)
    touched = [(tables[name], rows) for name, rows in group.rows.items()]
    ends = await asyncio.gather(
        *(
            sender.send_rows(table.storage.changelog_topic.get_topic_name(), group.partition, rows.items())
            for table, rows in touched
        )
    )
    if not may_apply():
        return
    for (table, rows), end in zip(touched, ends, strict=True):
        table.apply(group.partition, rows, end)
