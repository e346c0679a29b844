"""Index of dead letters: the open ones, the selection, and the order of a redrive.

A dead letter is open when it was neither redriven nor dropped and its event has not failed again
since. The index keeps about 600 bytes of each, however large it is; a caller that needs more reads
it again. Pure: no Kafka, no clock.
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from famulus.deadletter.dead_letter import Audit, Cause, DeadLetter, Done, LetterId, Origin
from famulus.deadletter.failure_kind import FailureKind
from famulus.durations import seconds_in

FAILED_AGAIN = "failed again"
PAST: Mapping[Done, str] = {"redrive": "redriven", "drop": "dropped"}  # as shown to people
HOPS_MAX = 10  # after so many redrives, one more is not likely to help
Place = tuple[int, int]  # partition and offset of a dead letter in its topic
Sequence = tuple[str, int, bytes]  # topic and partition of the origin, and the key


@dataclass(frozen=True, slots=True)
class Criteria:
    """Filter for dead letters: every field that is set must match.

    Times (since 1970) are those of the failure; *since_ms* is included, *until_ms* is not.
    """

    cause: str | None = None
    key: str | None = None
    event_id: str | None = None
    origin: Origin | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether every dead letter matches."""
        return self == Criteria()

    def takes(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter matches. *event_id* may lack the source of the id."""
        return (
            (self.origin is None or letter.id.origin == self.origin)
            and (self.cause is None or letter.cause.id == self.cause)
            and (self.key is None or (letter.key is not None and text_of(letter.key) == self.key))
            and (
                self.event_id is None
                or self.event_id in (letter.event_id, letter.event_id.partition("#")[2])
            )
            and (self.since_ms is None or letter.at_ms >= self.since_ms)
            and (self.until_ms is None or letter.at_ms < self.until_ms)
        )


def text_of(key: bytes) -> str:
    """Return a record's key as text for people, who also type it that way."""
    return key.decode("utf-8", "backslashreplace")


def time_of(text: str, now_ms: int) -> int:
    """Return the time in *text* as milliseconds since 1970.

    *text* is an ISO time (UTC unless it has a time zone) or an age such as 30m, 2h or 3d. Raises
    ValueError when it is neither.
    """
    if (ago_s := seconds_in(text)) is not None:
        return now_ms - round(ago_s * 1000)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a time such as 2026-01-31T12:00 nor an age such as 30m, 2h or 3d"
        ) from None
    return round((time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp() * 1000)


class Settled(NamedTuple):
    """End of a dead letter: redriven, dropped, or `failed again`.

    `failed again` means that a newer dead letter exists for the same event.
    """

    what: str
    at_ms: int


@dataclass(slots=True)
class Entry:
    """One dead letter in the index. *is_meant* tells if the criteria match it."""

    id: LetterId
    place: Place
    key: bytes | None
    cause: Cause
    at_ms: int
    size: int  # bytes of its event's value
    is_meant: bool
    settled: Settled | None = None
    source_id: str = ""  # id of the event's source topic, "" when unknown

    @property
    def is_open(self) -> bool:
        """Return whether it still waits for an operator."""
        return self.settled is None

    def sequence(self, *, by_partition: bool) -> Sequence | None:
        """Return the sequence whose order a redrive must keep, None for a single event.

        A sequence is a source partition if *by_partition*, else a key within it.
        """
        if by_partition:
            return self.id.origin.topic, self.id.origin.partition, b""
        return (
            None if self.key is None else (self.id.origin.topic, self.id.origin.partition, self.key)
        )


class DeadLetterIndex:
    """Dead letters of one *group* in one topic.

    Call `note` with every audit record first, then `add` with every dead letter. Settled
    dead letters are left out unless *is_all*. *others* counts dead letters of other groups.
    *strange* counts records that are not dead letters, *strange_audits* those that are not valid
    audit records.
    """

    def __init__(self, group: str, criteria: Criteria, *, is_all: bool = False) -> None:
        self.others: Counter[str] = Counter()
        self.strange = 0
        self.strange_audits = 0
        self.messages: dict[Cause, tuple[int, str]] = {}  # time and newest message of each cause
        self._group = group
        self._criteria = criteria
        self._is_all = is_all
        self._done: dict[LetterId, Settled] = {}
        self._entries: dict[LetterId, Entry] = {}
        self._source_ids: dict[str, str] = {}  # interned: equal ids share one string
        # Hops and time of the newest dead letter of each redriven event, by its origin and the only
        # handler.
        self._again: dict[tuple[Origin, str], tuple[int, int]] = {}
        self._causes: dict[Cause, Cause] = {}

    def note(self, audit: Audit) -> None:
        """Add the next audit record."""
        if audit.group == self._group:
            self._done[audit.id] = Settled(PAST[audit.action], audit.at_ms)

    def add(self, letter: DeadLetter, place: Place) -> None:
        """Add the next dead letter of its partition."""
        if letter.group != self._group:
            self.others[letter.group] += 1
            return
        settled = self._done.get(letter.id)
        if settled is not None and settled.at_ms < letter.at_ms:
            # The audit record is of an earlier failure: the event was read and handled again since.
            settled = None
        if letter.id.hops:
            spot = letter.id.origin, letter.id.only
            self._again[spot] = max(self._again.get(spot, (0, 0)), (letter.id.hops, letter.at_ms))
        there = self._entries.get(letter.id)
        if (settled is not None and not self._is_all) or (there is not None and there.is_open):
            return
        cause = self._causes.setdefault(letter.cause, letter.cause)
        is_meant = self._criteria.takes(letter)
        if letter.at_ms >= self.messages.get(cause, (0, ""))[0]:
            self.messages[cause] = letter.at_ms, letter.message
        self._entries[letter.id] = Entry(
            letter.id,
            place,
            letter.key,
            cause,
            letter.at_ms,
            letter.value_bytes,
            is_meant,
            settled,
            self._source_ids.setdefault(letter.source_id, letter.source_id),
        )

    def entries(self) -> list[Entry]:
        """Return the entries in the order of the log of their source topics."""
        for entry in self._entries.values():
            hops, at_ms = self._again.get((entry.id.origin, entry.id.only), (0, 0))
            if entry.is_open and hops > entry.id.hops and at_ms >= entry.at_ms:
                entry.settled = Settled(FAILED_AGAIN, at_ms)
        found = (entry for entry in self._entries.values() if self._is_all or entry.is_open)
        return sorted(found, key=lambda entry: entry.id)


@dataclass(slots=True)
class Plan:
    """Dead letters to redrive or drop: *chosen*, in this order.

    *added* are those of them that were not selected but precede a selected one, which waits behind
    them. *refused* were redriven too often already, *held* follow one of these. Within a sequence
    in *ordered*, no dead letter may overtake an earlier one.
    """

    chosen: list[Entry] = field(default_factory=list)
    added: list[Entry] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    held: list[Entry] = field(default_factory=list)
    ordered: Container[Sequence | None] = ()


def planned(
    entries: Iterable[Entry],
    *,
    by_partition: bool,
    hops_max: int | None,
    limit: int | None,
    is_drop: bool = False,
) -> Plan:
    """Return the plan for the selected *entries*.

    *entries* must have all of a topic, in their order. No dead letter overtakes an earlier one of
    its sequence if one of the sequence is parked: those before it are added. A drop takes the
    selected ones and no others. At most *limit* are chosen, and none that was redriven *hops_max*
    times already.
    """
    every = [
        entry for entry in entries if entry.settled is None or entry.settled.what != FAILED_AGAIN
    ]
    before = {} if is_drop else _last_meant(every, by_partition=by_partition)
    blocked: set[Sequence] = set()
    plan = Plan(ordered=before)
    for entry in every:
        sequence = entry.sequence(by_partition=by_partition)
        is_added = (
            not entry.is_meant
            and entry.is_open
            and entry.id.origin.offset < before.get(sequence, -1)
        )
        if not (entry.is_meant or is_added):
            continue
        if limit is not None and len(plan.chosen) >= limit:
            break
        if sequence in blocked:
            plan.held.append(entry)
        elif hops_max is not None and entry.id.hops >= hops_max:
            plan.refused.append(entry)
            if sequence in before:
                assert sequence is not None
                blocked.add(sequence)
        else:
            plan.chosen.append(entry)
            if is_added:
                plan.added.append(entry)
    return plan


def _last_meant(entries: Iterable[Entry], *, by_partition: bool) -> dict[Sequence | None, int]:
    """Return the offset of the last selected dead letter of each sequence that is ordered.

    Only sequences with a parked dead letter up to that offset are in it.
    """
    parked: set[Sequence | None] = set()
    last: dict[Sequence | None, int] = {}
    for entry in entries:
        sequence = entry.sequence(by_partition=by_partition)
        if sequence is not None and entry.is_open:
            if entry.cause.kind == FailureKind.PARKED:
                parked.add(sequence)
            if entry.is_meant and sequence in parked:
                last[sequence] = entry.id.origin.offset
    return last
