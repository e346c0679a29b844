"""Each event id takes effect once: a mark per event id, written together with the event's effects."""

import struct
from collections.abc import Iterable
from hashlib import blake2b

from app.state.tables import Table
from app.state.unit import Unit

MARK_BYTES = 16  # of the id's digest: two ids in 2**64 would collide by chance
_seen_at = struct.Struct(">qq")


class Dedupe:
    """Remembers the ids of one subscription's events in a table of its own."""

    def __init__(self, table: Table[str, str]) -> None:
        self._table = table

    def known(self, partition: int, event_ids: Iterable[str]) -> list[bool]:
        """For each id whether the store has its mark. One look for all."""
        marks = [_mark(event_id) for event_id in event_ids]
        return [hit is not None for hit in self._table.stored_many(partition, marks)]

    def is_marked(self, unit: Unit, *, is_stored: bool | None) -> bool:
        """Whether the event of *unit* took effect. *is_stored*: what `known` said, None if that may be outdated."""
        mark = _mark(unit.event_id)
        if is_stored is False:
            return not unit.lacks(self._table.name, mark, self._table.stored)
        return is_stored or unit.row(self._table.name, mark, self._table.stored) is not None

    def mark(self, unit: Unit, *, timestamp_ms: int, offset: int) -> None:
        """Make the mark part of the event's own effects. *timestamp_ms* and *offset* are the record's."""
        unit.write(self._table.name, _mark(unit.event_id), _seen_at.pack(timestamp_ms, offset))


def _mark(event_id: str) -> bytes:
    return blake2b(event_id.encode(), digest_size=MARK_BYTES).digest()
