"""Answers of `explain`: the state of one event, derived from facts. Pure: no Kafka, no clock.

The checks are in the order in which people need the answers: does the event exist, does it have a
dead letter, is it settled, is it being retried, which events are in front of it?
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from famulus.control.pauses import AuditInfo, PauseScope, said
from famulus.deadletter.failure_kind import FailureKind
from famulus.formatting import behind_transaction, duration, time_text
from famulus.state.changelog import SeenMark
from famulus.state.failure_state import AttemptCount, Attempts

State = Literal[
    "gone",
    "not written",
    "behind a transaction",
    "no record",
    "dead letter",
    "parked",
    "redriven",
    "dropped",
    "handled",
    "duplicate",
    "ignored",
    "settled",
    "paused",
    "in back-off",
    "behind",
    "next",
    "waiting",
    "nobody reads",
]


@dataclass(frozen=True, slots=True)
class Dead:
    """Dead letter of the event.

    *was* and *was_ms* name the action taken on it and its time; *was* is empty while it is open.
    """

    cause: str
    kind: str
    handler: str
    error: str
    message: str
    at_ms: int
    was: str = ""
    was_ms: int = 0


@dataclass(frozen=True, slots=True)
class Postponed:
    """Wait of the event in a retry *topic* for another attempt of *handler*.

    *due_ms* is the time of the attempt in milliseconds since 1970.
    """

    topic: str
    handler: str
    attempts: int
    first_ms: int
    due_ms: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts from the logs about the event at *offset*, and about its partition.

    - *begin* and *end*: the offsets of the partition for readers of committed records.
    - *next_offset*: the offset up to which the partition is settled.
    - *is_ahead*: whether the event is settled although it lies beyond *next_offset*.
    - *mark*: the seen mark of its event id.
    - *postponed*: its waits in retry topics.
    - *before*: the unsettled offsets of its key in front of it.
    - *tried*: the attempts at events of the partition, by offset.
    - *members*: the number of members in the group.
    - *pause*: a pause by an operator that covers the partition.
    - *written*: the end of the partition for readers of uncommitted records, where it was needed.
    """

    topic: str
    partition: int
    offset: int
    begin: int
    end: int
    is_there: bool = False
    type_name: str = ""
    is_handled_type: bool = True
    fault: str = ""  # why it does not decode
    next_offset: int = 0
    is_ahead: bool = False
    mark: SeenMark | None = None
    letters: Sequence[Dead] = ()  # its dead letters, ordered by time
    postponed: Sequence[Postponed] = ()
    dead_before: int | None = None  # a dead letter that later events of its key wait behind
    before: Sequence[int] = ()
    tried: dict[int, Attempts] = field(default_factory=dict)
    members: int = 0
    pause: tuple[PauseScope, AuditInfo] | None = None
    written: int = 0

    @property
    def place(self) -> str:
        """Return the place of the event as other commands take it: TOPIC/PARTITION/OFFSET."""
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Answer:
    """State of an event, with the reason in words.

    *action* is a command or another thing to do about it, empty when there is nothing to do.
    """

    state: State
    why: str
    action: str = ""

    @property
    def is_good(self) -> bool:
        """Return whether nothing is left to be done for the event."""
        return self.state in {"handled", "duplicate", "redriven", "dropped", "settled", "ignored"}

    @property
    def is_bad(self) -> bool:
        """Return whether an operator has to act."""
        return self.state in {"dead letter", "parked", "nobody reads"}


def answer_of(facts: Facts, now_ms: int) -> Answer:
    """Return the state of the event, the reason, and the action to take.

    *now_ms* is the present time in milliseconds since 1970.
    """
    if not facts.is_there:
        return _absent(facts)
    if facts.letters and not facts.letters[-1].was:
        return _dead(facts)
    if facts.postponed:
        return _on_its_way(facts, now_ms)
    if facts.letters:
        return _dead(facts)
    if facts.is_ahead or facts.offset < facts.next_offset:
        return _settled(facts)
    return _on_its_way(facts, now_ms)


def _absent(facts: Facts) -> Answer:
    if facts.end <= facts.offset < facts.written:
        whose = f"--topic {facts.topic} --partition {facts.partition}"
        return Answer(
            "behind a transaction",
            behind_transaction(f"{facts.topic}-{facts.partition}", facts.end),
            f"whoever began it has to end it; kafka-transactions.sh describe-producers {whose} "
            "says who "
            "that is",
        )
    if facts.offset >= facts.end:
        return Answer(
            "not written", f"the partition ends at offset {max(facts.end, facts.written)}"
        )
    if facts.offset < facts.begin:
        return Answer("gone", f"the log begins at offset {facts.begin}: retention has removed it")
    return Answer(
        "no record",
        "there is no record: removed by compaction, a transaction's mark, or of an aborted one",
    )


def _dead(facts: Facts) -> Answer:
    last = facts.letters[-1]
    when = time_text(last.at_ms)
    what = f"{last.error} in {last.handler}" if last.handler else last.error
    if last.was:
        again = f"{what} at {when}; it was {last.was} at {time_text(last.was_ms)}"
        return Answer("dropped" if last.was == "dropped" else "redriven", again)
    if last.kind == FailureKind.PARKED:
        behind = (
            f"offset {facts.dead_before}" if facts.dead_before is not None else "an earlier one"
        )
        first = f"{facts.topic}/{facts.partition}/{facts.dead_before}"
        redrive = (
            f"faust -A app dlq redrive {first}"
            if facts.dead_before is not None
            else _redrive(facts)
        )
        return Answer(
            "parked",
            f"since {when} behind the dead letter of {behind}, which has the same key",
            redrive,
        )
    return Answer("dead letter", f"{last.kind} at {when}: {what}: {last.message}", _redrive(facts))


def _redrive(facts: Facts) -> str:
    return f"faust -A app dlq redrive {facts.place}"


def _settled(facts: Facts) -> Answer:
    if facts.mark is not None and facts.mark.offset != facts.offset:
        return Answer(
            "duplicate",
            f"the same event was handled at offset {facts.mark.offset}, "
            f"of the time {time_text(facts.mark.seen_ms)}",
        )
    if facts.mark is not None:
        return Answer(
            "handled",
            f"its effects are settled; it is remembered, as of {time_text(facts.mark.seen_ms)}",
        )
    if not facts.is_handled_type:
        return Answer(
            "ignored", f"nobody here handles {facts.type_name}", "add a handler, or leave it"
        )
    return Answer(
        "settled",
        (
            f"the partition is settled up to offset {facts.next_offset}; nothing tells more of "
            "the event"
        ),
    )


def _on_its_way(facts: Facts, now_ms: int) -> Answer:
    if not facts.members:
        return Answer(
            "nobody reads",
            f"it waits, and no worker is in the group; settled up to {facts.next_offset}",
            "faust -A app worker",
        )
    if facts.pause is not None:  # no event is started, and no attempt is repeated
        return Answer("paused", said(*facts.pause), _resume(facts.pause[0]))
    return _in_line(facts, now_ms)


def _in_line(facts: Facts, now_ms: int) -> Answer:
    if facts.postponed:
        return Answer(
            "in back-off", _postponed(facts, now_ms), "nothing: it is tried again by itself"
        )
    if facts.offset in facts.tried:
        return Answer(
            "in back-off",
            _tried(facts.tried[facts.offset], now_ms),
            "nothing: it is tried again by itself",
        )
    if facts.before:
        first = facts.before[0]
        attempts = (
            f", which is {_tried(facts.tried[first], now_ms)}" if first in facts.tried else ""
        )
        return Answer(
            "behind",
            f"{len(facts.before)} of its key come first, beginning with offset {first}{attempts}",
            f"faust -A app explain {facts.topic} {facts.partition} {first}",
        )
    if facts.fault:
        return Answer("waiting", f"it will be a dead letter: {facts.fault}")
    if facts.offset == facts.next_offset:
        return Answer(
            "next",
            "it is the first one that is not settled, so it is in hand",
            "see the worker's /livez for what is in hand for too long",
        )
    ahead = facts.offset - facts.next_offset
    return Answer(
        "waiting",
        f"{ahead} offsets of the partition, none of its key, come first or are in hand with it",
        "faust -A app lag",
    )


def _resume(target: PauseScope) -> str:
    if not target.topic:
        return "faust -A app resume --all"
    return f"faust -A app resume {target.topic}" + (
        "" if target.partition is None else f" --partition {target.partition}"
    )


def _postponed(facts: Facts, now_ms: int) -> str:
    """Describe the waits in retry topics, with their handlers."""
    return "; ".join(
        (
            f"waits in {of.topic}, "
            f"{_tried({of.handler: AttemptCount(of.attempts, of.first_ms, of.due_ms)}, now_ms)}"
        )
        for of in facts.postponed
    )


def _tried(attempts: Attempts, now_ms: int) -> str:
    """Describe how often each handler has failed, and when its next attempt is due."""
    said = []
    for handler, tried in attempts.items():
        if not tried.attempts:
            continue
        wait_s = (tried.due_ms - now_ms) / 1000
        when = f"tried again in {duration(wait_s)}" if wait_s > 0 else "due now"
        said.append(
            f"{handler} has failed {tried.attempts} times since {time_text(tried.first_ms)}, {when}"
        )
    return "; ".join(said) or "waiting for a retry topic"
