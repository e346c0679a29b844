"""Pauses of one partition, a topic or everything, and their records in the admin topic.

The key of a record is the scope: `*`, `TOPIC` or `TOPIC/PARTITION`, with topics named as on the
cluster. Its value has who paused it, when and why; a tombstone resumes it. Pure: callers read and
send.
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
    """Return whether *text* is the number of a partition."""
    return text.isascii() and text.isdecimal() and len(text) <= PARTITION_DIGITS


def admin_topic(group: str) -> str:
    """Return the name of the admin topic of *group*, as on the cluster."""
    return f"{group}.admin"


def admin_audit_topic(group: str) -> str:
    """Return the name of the topic that keeps an audit record of each command forever."""
    return f"{group}.admin.audit"


class PauseScope(NamedTuple):
    """The scope of a pause: every topic, one topic, or one partition of it."""

    topic: str = ""
    partition: int | None = None

    def __str__(self) -> str:
        """Return the key of the record."""
        if not self.topic:
            return EVERYTHING
        return self.topic if self.partition is None else f"{self.topic}/{self.partition}"

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Return the scope that *text* names. Raises ValueError when it names none."""
        topic, _, partition = text.partition("/")
        if not topic or (partition and not is_partition(partition)):
            raise ValueError(
                f"{text[:300]!r} is neither {EVERYTHING}, nor TOPIC, nor TOPIC/PARTITION"
            )
        if topic == EVERYTHING:
            return cls()
        return cls(topic, int(partition) if partition else None)

    def covers(self, other: "PauseScope") -> bool:
        """Return whether a pause of this scope pauses *other*."""
        if not self.topic:
            return True
        return self.topic == other.topic and self.partition in {None, other.partition}


class AuditInfo(msgspec.Struct, frozen=True):
    """Author, time (ISO 8601, UTC) and reason of a pause."""

    by: str
    at: str
    note: str = ""


class PauseChange(msgspec.Struct, frozen=True):
    """A command of an operator: a record of the audit topic.

    *to* is the offset of a seek or the number of a concurrency override.
    """

    action: Literal["pause", "resume", "drain", "seek", "concurrency"]
    what: str
    by: str
    at: str
    note: str = ""
    to: int | msgspec.UnsetType | None = msgspec.UNSET


class Pauses:
    """Current pauses, as of the last record of the admin topic."""

    def __init__(self) -> None:
        self.of: dict[PauseScope, AuditInfo] = {}

    def take(self, key: bytes | None, value: bytes | None) -> PauseScope:
        """Apply a record of the admin topic and return its scope.

        Raises ValueError when it is not a valid record of this kind.
        """
        target = PauseScope.parsed((key or b"").decode())
        if value is None:
            self.of.pop(target, None)
        else:
            self.of[target] = msgspec.json.decode(value, type=AuditInfo)
        return target

    def over(self, topic: str, partition: int) -> "tuple[PauseScope, AuditInfo] | None":
        """Return the widest pause that covers a partition, None without one.

        The partition stays paused until that pause is resumed.
        """
        at = PauseScope(topic, partition)
        return min(
            ((target, why) for target, why in self.of.items() if target.covers(at)),
            key=_width,
            default=None,
        )

    def why(self, topic: str, partition: int) -> str:
        """Return why a partition is paused, empty when it is not."""
        pause = self.over(topic, partition)
        return said(*pause) if pause is not None else ""

    def rows(self) -> list[dict[str, object]]:
        """Return the pauses as JSON values, sorted by key; null stands for all."""
        return [
            {
                "topic": target.topic or None,
                "partition": target.partition,
                **msgspec.structs.asdict(why),
            }
            for target, why in sorted(self.of.items(), key=lambda row: str(row[0]))
        ]

    def lifted(self, target: PauseScope) -> list[PauseScope]:
        """Return the pauses that end when *target* is resumed.

        These are its own and those of scopes within it. Raises OperatingError when *target* would
        stay paused, since it is part of a wider scope that is.
        """
        for wider in self.of:
            if wider != target and wider.covers(target):
                name = "everything" if wider == PauseScope() else str(wider)
                raise OperatingError(f"{target} stays paused, since {name} is: resume that")
        return sorted((paused for paused in self.of if target.covers(paused)), key=str)


def _width(pause: tuple[PauseScope, AuditInfo]) -> int:
    """Return 0 for a pause of everything, 1 for a topic, 2 for a partition."""
    return bool(pause[0].topic) + (pause[0].partition is not None)


def said(target: PauseScope, why: AuditInfo) -> str:
    """Return a description of a pause."""
    name = "everything" if target == PauseScope() else str(target)
    return f"{name} is paused since {why.at} by {why.by}" + (f": {why.note}" if why.note else "")


def audit_record(group: str, change: PauseChange) -> ProducerRecord:
    """Return the audit record of *change*, which is kept forever."""
    return ProducerRecord(
        admin_audit_topic(group), change.what.encode(), msgspec.json.encode(change), partition=0
    )


def change_records(
    group: str, action: Action, targets: Sequence[PauseScope], why: AuditInfo
) -> list[ProducerRecord]:
    """Return the records for *action*: first the audit records, then the changes.

    In this order, no change goes without its audit record.
    """
    value = msgspec.json.encode(why) if action == "pause" else None
    audits = [PauseChange(action, str(target), why.by, why.at, why.note) for target in targets]
    return [
        *(audit_record(group, change) for change in audits),
        *(
            ProducerRecord(admin_topic(group), str(target).encode(), value, partition=0)
            for target in targets
        ),
    ]
