"""Where an operator has reading go on: one order for each partition, and how the group's admin topic says it.

A record's key is `seek:TOPIC/PARTITION/ID`, its value says the offset, who ordered it, when and
why. Whoever has the partition carries the order out, notes its ID in the state, and then writes a
tombstone. Of several orders for one partition the newest counts. Pure: whoever asks reads and
sends.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from famulus.control.pauses import is_partition
from famulus.serialization.stray_records import INT64_MAX

PREFIX = "seek:"  # no topic has a colon in its name


class SeekRequest(msgspec.Struct, frozen=True):
    """Where to go on, who ordered it, when (ISO 8601, UTC), and why."""

    offset: int
    by: str
    at: str
    note: str = ""


class SeekId(NamedTuple):
    """Which order: the partition that it moves, the topic as named on the cluster, and what tells it from others."""

    topic: str
    partition: int
    id: str

    def __str__(self) -> str:
        """A record's key."""
        return f"{PREFIX}{self.topic}/{self.partition}/{self.id}"


def seek_id(key: str) -> SeekId:
    """The order that a record's *key* names. Raises ValueError when it names none."""
    parts = key.removeprefix(PREFIX).split("/")
    if len(parts) != 3 or not all(parts) or not is_partition(parts[1]):
        raise ValueError(f"{key!r} is not {PREFIX}TOPIC/PARTITION/ID")
    return SeekId(parts[0], int(parts[1]), parts[2])


class Seeks:
    """The orders that are not carried out yet, after every record of the admin topic that was taken."""

    def __init__(self) -> None:
        self._of: dict[SeekId, SeekRequest] = {}  # in the order of the topic

    def take(self, key: str, value: bytes | None) -> str:
        """Note a record of the admin topic; what it says, in words.

        Raises ValueError when it is none of ours.
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
        """The orders for a partition, the newest last."""
        return [name for name in self._of if (name.topic, name.partition) == (topic, partition)]

    def newest(self, topic: str, partition: int) -> tuple[SeekId, SeekRequest] | None:
        """The order that counts for a partition, None without one."""
        names = self.names(topic, partition)
        return (names[-1], self._of[names[-1]]) if names else None

    def forget(self, names: Iterable[SeekId]) -> None:
        """They are carried out, or superseded; the topic will say so, too."""
        for name in names:
            self._of.pop(name, None)

    def words(self) -> list[str]:
        """The orders that count, in words."""
        newest = {(name.topic, name.partition): order for name, order in self._of.items()}
        return [
            said(topic, partition, order) for (topic, partition), order in sorted(newest.items())
        ]

    def rows(self) -> list[dict[str, object]]:
        """The orders that count, for programs."""
        newest = {(name.topic, name.partition): order for name, order in self._of.items()}
        return [
            {"topic": topic, "partition": partition, **msgspec.structs.asdict(order)}
            for (topic, partition), order in sorted(newest.items())
        ]


def said(topic: str, partition: int, order: SeekRequest) -> str:
    """An order in words."""
    why = f": {order.note}" if order.note else ""
    return (
        f"{topic}/{partition} is to go on at offset {order.offset}, since {order.at} by "
        f"{order.by}{why}"
    )
