"""What an operator has paused: one partition, a topic, or all; and how the group's admin topic says so.

A record's key is what is paused: `*`, `TOPIC` or `TOPIC/PARTITION`, topics as named on the cluster.
Its value says who paused it, when and why; none (a tombstone) means that it goes on. Pure: whoever
asks reads and sends.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import msgspec

from famulus.errors import OperatingError
from famulus.serialization.records import ProducerRecord

EVERYTHING = "*"
NOTE_MAX = 500  # characters of a note
PARTITION_DIGITS = 9
Action = Literal["pause", "resume"]


def is_partition(text: str) -> bool:
    """Whether *text* is the number of a partition."""
    return text.isascii() and text.isdecimal() and len(text) <= PARTITION_DIGITS


def admin_topic(group: str) -> str:
    """What *group* is told while it runs, as named on the cluster."""
    return f"{group}.admin"


def admin_audit_topic(group: str) -> str:
    """Who told it what, for ever."""
    return f"{group}.admin.audit"


class PauseScope(NamedTuple):
    """What is paused: every topic, one, or one partition of it."""

    topic: str = ""
    partition: int | None = None

    def __str__(self) -> str:
        """A record's key."""
        if not self.topic:
            return EVERYTHING
        return self.topic if self.partition is None else f"{self.topic}/{self.partition}"

    @classmethod
    def parsed(cls, text: str) -> Self:
        """The target that *text* names. Raises ValueError when it names none."""
        topic, _, partition = text.partition("/")
        if not topic or (partition and not is_partition(partition)):
            raise ValueError(
                f"{text[:300]!r} is neither {EVERYTHING}, nor TOPIC, nor TOPIC/PARTITION"
            )
        if topic == EVERYTHING:
            return cls()
        return cls(topic, int(partition) if partition else None)

    def covers(self, other: "PauseScope") -> bool:
        """Whether *other* is paused when this is."""
        if not self.topic:
            return True
        return self.topic == other.topic and self.partition in {None, other.partition}


class AuditInfo(msgspec.Struct, frozen=True):
    """Who did it, when (ISO 8601, UTC), and why."""

    by: str
    at: str
    note: str = ""


class PauseChange(msgspec.Struct, frozen=True):
    """What somebody did: a record of the audit topic.

    *to*: the offset of a seek, the number of a concurrency.
    """

    action: Literal["pause", "resume", "drain", "seek", "concurrency"]
    what: str
    by: str
    at: str
    note: str = ""
    to: int | msgspec.UnsetType | None = msgspec.UNSET


class Pauses:
    """What is paused by now, after every record of the admin topic that was taken."""

    def __init__(self) -> None:
        self.of: dict[PauseScope, AuditInfo] = {}

    def take(self, key: bytes | None, value: bytes | None) -> PauseScope:
        """Note a record of the admin topic; what it is about.

        Raises ValueError when it is none of ours.
        """
        target = PauseScope.parsed((key or b"").decode())
        if value is None:
            self.of.pop(target, None)
        else:
            self.of[target] = msgspec.json.decode(value, type=AuditInfo)
        return target

    def over(self, topic: str, partition: int) -> "tuple[PauseScope, AuditInfo] | None":
        """The widest pause that covers a partition: resuming that lets it go on.

        None when nothing is in the way.
        """
        at = PauseScope(topic, partition)
        return min(
            ((target, why) for target, why in self.of.items() if target.covers(at)),
            key=_width,
            default=None,
        )

    def why(self, topic: str, partition: int) -> str:
        """Why nothing of a partition is started, in words; empty when nothing is in the way."""
        pause = self.over(topic, partition)
        return said(*pause) if pause is not None else ""

    def rows(self) -> list[dict[str, object]]:
        """What is paused, for programs, in the order of the names; null stands for all."""
        return [
            {
                "topic": target.topic or None,
                "partition": target.partition,
                **msgspec.structs.asdict(why),
            }
            for target, why in sorted(self.of.items(), key=lambda row: str(row[0]))
        ]

    def lifted(self, target: PauseScope) -> list[PauseScope]:
        """What goes on when *target* is resumed: it, and what of it was paused by itself.

        Raises OperatingError when *target* would stay paused, since it is part of something that
        is.
        """
        for wider in self.of:
            if wider != target and wider.covers(target):
                name = "everything" if wider == PauseScope() else str(wider)
                raise OperatingError(f"{target} stays paused, since {name} is: resume that")
        return sorted((paused for paused in self.of if target.covers(paused)), key=str)


def _width(pause: tuple[PauseScope, AuditInfo]) -> int:
    """Less for what covers more: everything, a topic, a partition."""
    return bool(pause[0].topic) + (pause[0].partition is not None)


def said(target: PauseScope, why: AuditInfo) -> str:
    """A pause in words."""
    name = "everything" if target == PauseScope() else str(target)
    return f"{name} is paused since {why.at} by {why.by}" + (f": {why.note}" if why.note else "")


def audit_record(group: str, change: PauseChange) -> ProducerRecord:
    """What is kept of *change* for ever."""
    return ProducerRecord(
        admin_audit_topic(group), change.what.encode(), msgspec.json.encode(change), partition=0
    )


def change_records(
    group: str, action: Action, targets: Sequence[PauseScope], why: AuditInfo
) -> list[ProducerRecord]:
    """What *action* sends, in this order: first what is kept of it for ever, so that nothing is done unseen."""
    value = msgspec.json.encode(why) if action == "pause" else None
    audits = [PauseChange(action, str(target), why.by, why.at, why.note) for target in targets]
    return [
        *(audit_record(group, change) for change in audits),
        *(
            ProducerRecord(admin_topic(group), str(target).encode(), value, partition=0)
            for target in targets
        ),
    ]
