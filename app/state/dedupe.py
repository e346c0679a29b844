"""Each event id takes effect once: a mark per event id, written together with the event's effects."""

import struct
from collections.abc import Sequence
from hashlib import blake2b

from app.state.tables import Table
from app.state.unit import Group, Unit

MARK_BYTES = 16  # of the id's digest: two ids in 2**64 would collide by chance
_seen_at = struct.Struct(">qq")


class Dedupe:
    """Remembers the ids of one subscription's events in a table of its own."""

    def __init__(self, table: Table[str, str]) -> None:
        self._table = table

    def known(self, group: Group, event_ids: Sequence[str]) -> list[bool]:
        """For each id whether it has taken effect: settled before, or in this *group* already. One look for all."""
        marks = [_mark(event_id) for event_id in event_ids]
        hits = self._table.stored_many(group.partition, marks)
        fresh = group.rows.get(self._table.name, {})
        return [hit is not None or mark in fresh for mark, hit in zip(marks, hits, strict=True)]

    def is_marked(self, group: Group, event_id: str) -> bool:
        """Whether an event of this *group* had the id: the second look, for twins inside one batch."""
        return _mark(event_id) in group.rows.get(self._table.name, {})

    def mark(self, unit: Unit, *, timestamp_ms: int, offset: int) -> None:
        """Make the mark part of the event's own effects. *timestamp_ms* and *offset* are the record's."""
        unit.write(self._table.name, _mark(unit.event_id), _seen_at.pack(timestamp_ms, offset))


def _mark(event_id: str) -> bytes:
    return blake2b(event_id.encode(), digest_size=MARK_BYTES).digest()
