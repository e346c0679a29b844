"""Events that held their worker up until it lost its place in the group, and how the group's admin topic says it.

A record's key is `held:TOPIC/PARTITION/OFFSET/ID`, where the event's record lies in its source, one
for each time. Whoever has the partition counts them among the event's attempts, and writes
tombstones when it is past the event. Workers that know no such keys leave them alone. Pure.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

PREFIX = "held:"  # no topic has a colon in its name
DIGITS_MAX = 19  # of an offset


class HoldUp(msgspec.Struct, frozen=True):
    """For how long, in seconds, which worker, and when (ISO 8601, UTC).

    *is_sure*: it was this event, not one shortly before it, so it counts as an attempt. *stage* is
    where the event was: 0 in its lane, n in the nth retry topic, -1 among redriven dead letters.
    """

    seconds: float
    by: str
    at: str
    stage: int = 0
    is_sure: bool = True


class HoldUpId(NamedTuple):
    """Which time: where the event's record lies, the topic as named on the cluster, and what tells it from others."""

    topic: str
    partition: int
    offset: int
    id: str

    def __str__(self) -> str:
        """A record's key."""
        return f"{PREFIX}{self.topic}/{self.partition}/{self.offset}/{self.id}"


def hold_up_id(key: str) -> HoldUpId:
    """The time that a record's *key* names. Raises ValueError when it names none."""
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
    """Those that count, after every record of the admin topic that was taken."""

    def __init__(self) -> None:
        self._of: dict[HoldUpId, HoldUp] = {}

    def take(self, key: str, value: bytes | None) -> str:
        """Note a record of the admin topic; what it says, in words.

        Raises ValueError when it is none of ours.
        """
        name = hold_up_id(key)
        if value is None:
            self._of.pop(name, None)
            return ""
        holdup = self._of[name] = msgspec.json.decode(value, type=HoldUp)
        return said(name, holdup)

    def note(self, name: HoldUpId, holdup: HoldUp) -> None:
        """Count what this worker has seen; the topic will say so, too."""
        self._of[name] = holdup

    def times(self, topic: str, partition: int) -> Counter[tuple[int, int]]:
        """How often events of a partition have held a worker up, by offset and stage; 0 where it is not sure."""
        times: Counter[tuple[int, int]] = Counter()
        for name, of in self._at(topic, partition):
            times[name.offset, of.stage] += of.is_sure
        return times

    def done(self, topic: str, partition: int, begin: int, oldest: str) -> list[HoldUpId]:
        """Those that count no more where reading begins at *begin*, and those from before *oldest*."""
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
        """They count no more; the topic will say so, too."""
        for name in names:
            self._of.pop(name, None)


def said(name: HoldUpId, holdup: HoldUp) -> str:
    """One in words."""
    return (
        f"{name.topic}-{name.partition} offset {name.offset} held {holdup.by} up for "
        f"{holdup.seconds:.0f} s, "
        f"which lost its place in the group, at {holdup.at}"
    )
