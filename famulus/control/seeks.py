"""Pending seeks, and their records in the admin topic.

The key of a record is `seek:TOPIC/PARTITION/ID`. Its value has the offset, who requested it, when
and why. The owner of the partition executes the seek, notes the ID in the state, and then writes a
tombstone. Of several seeks for one partition, the newest applies. Pure: callers read and send.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from famulus.control.pauses import is_partition
from famulus.serialization.stray_records import INT64_MAX

PREFIX = "seek:"  # no topic has a colon in its name


class SeekRequest(msgspec.Struct, frozen=True):
    """The offset of a seek, who requested it, when (ISO 8601, UTC), and why."""

    offset: int
    by: str
    at: str
    note: str = ""


class SeekId(NamedTuple):
    """Identity of a seek: the partition that it moves, and an ID.

    *topic* is named as on the cluster. *id* tells several seeks of one partition apart.
    """

    topic: str
    partition: int
    id: str

    def __str__(self) -> str:
        """Return the key of the record."""
        return f"{PREFIX}{self.topic}/{self.partition}/{self.id}"


def seek_id(key: str) -> SeekId:
    """Return the identity in a record's *key*. Raises ValueError when it has none."""
    parts = key.removeprefix(PREFIX).split("/")
    if len(parts) != 3 or not all(parts) or not is_partition(parts[1]):
        raise ValueError(f"{key!r} is not {PREFIX}TOPIC/PARTITION/ID")
    return SeekId(parts[0], int(parts[1]), parts[2])


class Seeks:
    """Seeks that are not executed yet, as of the last record of the admin topic."""

    def __init__(self) -> None:
        self._of: dict[SeekId, SeekRequest] = {}  # in the order of the topic

    def take(self, key: str, value: bytes | None) -> str:
        """Apply a record of the admin topic and return a description of it.

        Raises ValueError when it is not a valid record of this kind.
        """
        name = seek_id(key)
        order = None if value is None else msgspec.json.decode(value, type=SeekRequest)
        if order is not None and not 0 <= order.offset <= INT64_MAX:
            raise ValueError("an offset that no log has")
        self._of.pop(name, None)
        if order is None:
            return f"the seek of {name.topic}/{name.partition} is done"
        self._of[name] = order
        return said(name.topic, name.partition, order)

    def names(self, topic: str, partition: int) -> list[SeekId]:
        """Return the pending seeks of a partition, the newest last."""
        return [name for name in self._of if (name.topic, name.partition) == (topic, partition)]

    def newest(self, topic: str, partition: int) -> tuple[SeekId, SeekRequest] | None:
        """Return the pending seek that applies to a partition, None without one."""
        names = self.names(topic, partition)
        return (names[-1], self._of[names[-1]]) if names else None

    def forget(self, names: Iterable[SeekId]) -> None:
        """Remove seeks that are executed or superseded, before their tombstones are read."""
        for name in names:
            self._of.pop(name, None)

    def words(self) -> list[str]:
        """Return descriptions of the seeks that apply."""
        newest = {(name.topic, name.partition): order for name, order in self._of.items()}
        return [
            said(topic, partition, order) for (topic, partition), order in sorted(newest.items())
        ]

    def rows(self) -> list[dict[str, object]]:
        """Return the seeks that apply as JSON values."""
        newest = {(name.topic, name.partition): order for name, order in self._of.items()}
        return [
            {"topic": topic, "partition": partition, **msgspec.structs.asdict(order)}
            for (topic, partition), order in sorted(newest.items())
        ]


def said(topic: str, partition: int, order: SeekRequest) -> str:
    """Return a description of a seek."""
    why = f": {order.note}" if order.note else ""
    return (
        f"{topic}/{partition} is to go on at offset {order.offset}, since {order.at} by "
        f"{order.by}{why}"
    )
