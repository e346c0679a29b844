"""Which dead letters are open, which of them are meant, and in which order they go back.

Pure: no Kafka, no clock.

A letter is open when nothing was done about it and its event did not fail again since. It is
remembered by a few words, some 600 bytes whatever its size; whoever needs more reads it again.
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
PAST: Mapping[Done, str] = {"redrive": "redriven", "drop": "dropped"}  # how it is said of a letter
HOPS_MAX = 10  # an event that was sent back so often does not need to be sent back once more
Place = tuple[int, int]  # of a letter in its topic: partition and offset
Sequence = tuple[str, int, bytes]  # topic and partition of the origin, and the key


@dataclass(frozen=True, slots=True)
class Criteria:
    """Which letters are meant: those that are all of this, as far as it says something.

    Times are of the failure.
    """

    cause: str | None = None
    key: str | None = None
    event_id: str | None = None
    origin: Origin | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all are meant."""
        return self == Criteria()

    def takes(self, letter: DeadLetter) -> bool:
        """Whether *letter* is meant. An event's id may leave out its source."""
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
    """A record's key as people see it and say it."""
    return key.decode("utf-8", "backslashreplace")


def time_of(text: str, now_ms: int) -> int:
    """The time that *text* says, an ISO time (UTC unless it says otherwise) or so long ago (30m, 2h, 3d), since 1970.

    Raises ValueError when it says neither.
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
    """What was done about a letter: an action, or `failed again` when a newer letter tells of the same event."""

    what: str
    at_ms: int


@dataclass(slots=True)
class Entry:
    """One letter, as it is remembered. *is_meant*: the criteria take it."""

    id: LetterId
    place: Place
    key: bytes | None
    cause: Cause
    at_ms: int
    size: int  # of its event's value, bytes
    is_meant: bool
    settled: Settled | None = None
    source_id: str = ""  # of the topic that its event stood in, "" when the letter does not say

    @property
    def is_open(self) -> bool:
        """Whether it waits for somebody to do something."""
        return self.settled is None

    def sequence(self, *, by_partition: bool) -> Sequence | None:
        """What must go back in the order of the log, None when it is on its own."""
        if by_partition:
            return self.id.origin.topic, self.id.origin.partition, b""
        return (
            None if self.key is None else (self.id.origin.topic, self.id.origin.partition, self.key)
        )


class DeadLetterIndex:
    """The letters of one *group* in one topic: told first what was done (`note`), then every letter (`add`).

    Letters that are done with are left out unless *is_all*. *others* counts those of other groups,
    *strange* the records that are no letters, *strange_audits* those that do not say what was done.
    """

    def __init__(self, group: str, criteria: Criteria, *, is_all: bool = False) -> None:
        self.others: Counter[str] = Counter()
        self.strange = 0
        self.strange_audits = 0
        self.messages: dict[Cause, tuple[int, str]] = {}  # of each cause the newest, with its time
        self._group = group
        self._criteria = criteria
        self._is_all = is_all
        self._done: dict[LetterId, Settled] = {}
        self._entries: dict[LetterId, Entry] = {}
        self._source_ids: dict[str, str] = {}  # a text for each, not for each letter
        # Hops and time of the newest letter of an event that was redriven, by its origin and the
        # only handler.
        self._again: dict[tuple[Origin, str], tuple[int, int]] = {}
        self._causes: dict[Cause, Cause] = {}

    def note(self, audit: Audit) -> None:
        """The next of what was done."""
        if audit.group == self._group:
            self._done[audit.id] = Settled(PAST[audit.action], audit.at_ms)

    def add(self, letter: DeadLetter, place: Place) -> None:
        """The next letter of its partition."""
        if letter.group != self._group:
            self.others[letter.group] += 1
            return
        settled = self._done.get(letter.id)
        if settled is not None and settled.at_ms < letter.at_ms:
            # It was done about an earlier failure: the event was read and handled anew since.
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
        """All of them, in the order of the log that their events come from."""
        for entry in self._entries.values():
            hops, at_ms = self._again.get((entry.id.origin, entry.id.only), (0, 0))
            if entry.is_open and hops > entry.id.hops and at_ms >= entry.at_ms:
                entry.settled = Settled(FAILED_AGAIN, at_ms)
        found = (entry for entry in self._entries.values() if self._is_all or entry.is_open)
        return sorted(found, key=lambda entry: entry.id)


@dataclass(slots=True)
class Plan:
    """What is to be sent: *chosen* in this order.

    *added* of them were not meant, but come before one that was, and it waits behind them.
    *refused* were sent back too often, *held* come behind one of these. In each of *ordered*
    nothing may overtake what comes before it.
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
    """What is to be done about those of *entries* that are meant; all of a topic must be among them, in their order.

    Nothing overtakes an earlier letter of its sequence, if one of them is parked: those before it
    are added. A drop takes what is meant and nothing else.
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
    """The offset of the last letter that is meant, of each sequence in which one is parked up to there."""
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
