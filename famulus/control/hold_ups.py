"""Hold-ups: events that blocked a worker until it lost its group membership.

The key of a record in the admin topic is `held:TOPIC/PARTITION/OFFSET/ID` with the position of the
event's record in its source; there is one record for each time. The owner of the partition counts
hold-ups as attempts of the event, and writes tombstones once it is past the event. Workers of
versions that do not know these keys skip them. Pure.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

PREFIX = "held:"  # no topic has a colon in its name
DIGITS_MAX = 19  # of a partition or an offset


class HoldUp(msgspec.Struct, frozen=True):
    """One hold-up: its duration, the worker, and when (ISO 8601, UTC).

    *is_sure* means that this event caused it, not one shortly before, so that it counts as an
    attempt. *stage* is where the event was: 0 in its lane, n in the nth retry topic, -1 redriven.
    """

    seconds: float
    by: str
    at: str
    stage: int = 0
    is_sure: bool = True


class HoldUpId(NamedTuple):
    """Identity of a hold-up: the position of the event's record, and an ID.

    *topic* is named as on the cluster. *id* tells several hold-ups of one event apart.
    """

    topic: str
    partition: int
    offset: int
    id: str

    def __str__(self) -> str:
        """Return the key of the record."""
        return f"{PREFIX}{self.topic}/{self.partition}/{self.offset}/{self.id}"


def hold_up_id(key: str) -> HoldUpId:
    """Return the identity in a record's *key*. Raises ValueError when it has none."""
    parts = key.removeprefix(PREFIX).split("/")
    numbers = parts[1:3]
    if (
        len(parts) != 4
        or not all(parts)
        or not all(
            number.isascii() and number.isdecimal() and len(number) <= DIGITS_MAX
            for number in numbers
        )
    ):
        raise ValueError(f"{key[:80]!r} is not {PREFIX}TOPIC/PARTITION/OFFSET/ID")
    return HoldUpId(parts[0], int(parts[1]), int(parts[2]), parts[3])


class HoldUps:
    """Current hold-ups, as of the last record of the admin topic."""

    def __init__(self) -> None:
        self._of: dict[HoldUpId, HoldUp] = {}

    def take(self, key: str, value: bytes | None) -> str:
        """Apply a record of the admin topic and return a description of it.

        The description of a tombstone is empty. Raises ValueError when the record is not a valid
        one of this kind.
        """
        name = hold_up_id(key)
        if value is None:
            self._of.pop(name, None)
            return ""
        holdup = self._of[name] = msgspec.json.decode(value, type=HoldUp)
        return said(name, holdup)

    def note(self, name: HoldUpId, holdup: HoldUp) -> None:
        """Add a hold-up of this worker, before it is read from the topic."""
        self._of[name] = holdup

    def times(self, topic: str, partition: int) -> Counter[tuple[int, int]]:
        """Return the number of hold-ups of a partition by offset and stage.

        The number is 0 for an event that is only suspected.
        """
        times: Counter[tuple[int, int]] = Counter()
        for name, of in self._at(topic, partition):
            times[name.offset, of.stage] += of.is_sure
        return times

    def done(self, topic: str, partition: int, begin: int, oldest: str) -> list[HoldUpId]:
        """Return the hold-ups of a partition that no longer apply.

        These are older than *oldest*, or of events below *begin*, where reading begins.
        """
        return [
            name
            for name, of in self._at(topic, partition)
            if of.at < oldest or (of.stage == 0 and name.offset < begin)
        ]

    def _at(self, topic: str, partition: int) -> list[tuple[HoldUpId, HoldUp]]:
        return [
            (name, of)
            for name, of in self._of.items()
            if (name.topic, name.partition) == (topic, partition)
        ]

    def forget(self, names: Iterable[HoldUpId]) -> None:
        """Remove hold-ups, before their tombstones are read from the topic."""
        for name in names:
            self._of.pop(name, None)


def said(name: HoldUpId, holdup: HoldUp) -> str:
    """Return a description of a hold-up."""
    return (
        f"{name.topic}-{name.partition} offset {name.offset} held {holdup.by} up for "
        f"{holdup.seconds:.0f} s, "
        f"which lost its place in the group, at {holdup.at}"
    )
