"""What becomes of an event that fails: another attempt after a rest, a retry topic, or its dead letter.

The order of the questions is the policy: is what the handler needs away (then nothing of it
counts)? may it be tried again in its lane? in a retry topic? may there be one more dead letter?
must later events of its key wait behind it?
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from famulus.deadletter.record import DeadLetters, Failure, FailureKind, message_of
from famulus.deadletter.redelivery import outgoing, retry_of
from famulus.deadletter.topics import retry_topic
from famulus.errors import HandlerHeldError
from famulus.observability.metrics import Counts
from famulus.processing.deferral import Defer, RetryContext, after_delay, never, stage_of
from famulus.processing.failures.handler_breaker import HandlerBreaker
from famulus.processing.handlers import Handler
from famulus.serialization.records import ConsumerRecord, event_id_of, place_of
from famulus.state.failure_state import AttemptCount, attempts_row
from famulus.state.partition_state import PartitionState
from famulus.state.unit_of_work import UnitOfWork
from famulus.wall_clock import wall_ms

log = structlog.get_logger()
OnDeadLetter = Literal["skip", "sequence", "halt"]
OnSequenceFull = Literal["halt", "skip"]
Order = Literal["key", "partition"]


class UnknownTypeError(Exception):
    """A record is of a type that nobody here handles."""


class ParkedError(Exception):
    """An earlier event of the same key is a dead letter."""


class EventFailedError(Exception):  # the error is inside
    """An event failed for good."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


@dataclass(frozen=True)
class FailurePolicy:
    """How the events of one subscription fail.

    Two gates stand before the dead letter topic: *flood* for what handlers give up, *poison* for
    what none can get. *succeeded* counts the attempts of handlers that did, those whose effects are
    not settled yet too. *now_ms* is the time by which events wait, the same for what goes into a
    retry topic and what comes out of it.
    """

    topic: str  # of the source, as on the cluster
    letters: DeadLetters
    counts: Counts
    flood: HandlerBreaker
    poison: HandlerBreaker
    succeeded: Callable[[], int]
    order: Order = "key"
    on_dead_letter: OnDeadLetter = "skip"
    sequence_max: int = 10_000
    on_sequence_full: OnSequenceFull = "halt"
    now_ms: Callable[[], int] = wall_ms
    # Where records stand that have left for a retry topic, where somebody is told.
    postponed: set[str] | None = None

    @property
    def shut(self) -> list[str]:
        """Why no further dead letter is written, in words; empty while they are."""
        return [gate.why for gate in (self.flood, self.poison) if gate.is_open]

    def begin(
        self,
        record: ConsumerRecord,
        past: RetryContext | None,
        state: PartitionState,
        longest_wait_s: float,
    ) -> RetryContext | None:
        """What an earlier owner of the partition knew of the event.

        Raises Rest, or GivenUp for one that is parked.

        Whatever the clock of that owner said, it rests for *longest_wait_s* at most.
        """
        offset, sequence = record.offset, self._sequence(record)
        if sequence is not None and state.failure_state.is_behind(sequence, offset):
            dead = state.failure_state.sequences[sequence][0]
            raise EventFailedError(
                self._failure(
                    "parked", ParkedError(f"behind the dead letter of offset {dead}"), past
                )
            )
        # Which says it itself.
        is_retry = past is not None and (past.back is None or past.back.action == "retry")
        if (times := state.failure_state.held.get((offset, stage_of(past)))) is not None:
            past = past or RetryContext()
            past.held = times
        if is_retry or offset not in state.failure_state.attempts:
            return past
        past = past or RetryContext()
        past.tried = state.failure_state.tried(offset)
        due_s = (max(tried.due_ms for tried in past.tried.values()) - self.now_ms()) / 1000
        if due_s > 0:
            raise Defer(past, after_delay(min(due_s, longest_wait_s)))
        return past

    def failed(
        self,
        handler: Handler,
        handlers: Sequence[Handler],
        error: BaseException,
        unit: UnitOfWork,
        past: RetryContext | None,
    ) -> RetryContext:
        """An attempt of *handler*, one of *handlers*, has failed.

        Returns when the others may go on without it.

        Raises Rest when it is to be tried again, GivenUp when the event has failed for good.
        """
        record, policy = unit.record, handler.policy
        past = past or RetryContext()
        if not policy.is_outage(error):
            handler.gate.release_probe(place_of(record))
        elif handler.gate.note_failure(place_of(record), error):
            raise self.at_gate(handler, handlers, unit, past)
        past.done |= _before(handler, handlers)
        now_ms = self.now_ms()
        before = past.tried.get(handler.name, AttemptCount())
        ran = not isinstance(error, HandlerHeldError)
        attempts, first_ms = before.attempts + past.held + ran, before.first_ms or now_ms
        stage = past.back.stage if past.back is not None else 0  # of retry topics
        if policy.is_transient(error) and attempts < policy.attempts_at(stage):
            delay_s = policy.retry.wait_s(attempts, random.random())  # noqa: S311  # no secret
            past.tried[handler.name] = AttemptCount(
                before.attempts + 1, first_ms, now_ms + round(delay_s * 1000)
            )
            unit.partition.note(*attempts_row(record.offset, past.tried))
            self.counts["retried"] += 1
            log.info(
                "again",
                record=words(record),
                handler=handler.name,
                attempt=attempts,
                delay_s=delay_s,
                error=type(error).__name__,
            )
            past.unit = unit
            raise Defer(past, after_delay(delay_s))
        failure = self._failure(policy.kind(error), error, past, handler.name, attempts, first_ms)
        if policy.is_transient(error) and stage < len(policy.delays_s):
            self._postpone(failure, stage, unit, policy.delays_s[stage])
            past.tried.setdefault(handler.name, AttemptCount())
            past.done |= {handler.name}
            return past
        raise EventFailedError(failure)

    def check_held(self, handler: Handler, past: RetryContext) -> None:
        """Raise HandlerHeldError when an event has held workers up for as often as *handler* may try it."""
        tried = past.tried.get(handler.name, AttemptCount())
        stage = past.back.stage if past.back is not None else 0
        if past.held and tried.attempts + past.held >= handler.policy.attempts_at(stage):
            raise HandlerHeldError(
                f"held the event loop {past.held} times until the worker lost its place in the "
                "group: await what "
                "takes long, or run it in a thread or process"
            )

    def acquire_probe(
        self,
        handler: Handler,
        handlers: Sequence[Handler],
        unit: UnitOfWork,
        past: RetryContext | None,
    ) -> None:
        """Go through a gate that is shut, as its probe.

        Raises Rest when it is another one's turn.
        """
        if not handler.gate.try_acquire_probe(place_of(unit.record)):
            raise self.at_gate(handler, handlers, unit, past)

    def at_gate(
        self,
        handler: Handler,
        handlers: Sequence[Handler],
        unit: UnitOfWork,
        past: RetryContext | None,
    ) -> Defer:
        """*unit*'s event rests at the gate of *handler*; those of *handlers* before it are done."""
        past = past or RetryContext()
        past.done |= _before(handler, handlers)
        past.unit = unit
        return Defer(past, handler.gate.until(place_of(unit.record)))

    def bury(self, failure: Failure, unit: UnitOfWork, past: RetryContext | None) -> None:
        """Put the dead letter into the group: it leaves before the event's offset is finished.

        Raises Rest when it must not: the event stays where it is.
        """
        record, state = unit.record, unit.partition
        past = past or RetryContext()
        past.unit, past.done = None, frozenset()  # when it must not, all handlers run anew
        gate = self._gate(record, failure, past)
        if gate is not None and gate.note_failure(place_of(record), failure.error):
            raise Defer(past, gate.until(place_of(record)))
        blocked = self._sequence(record) if self.on_dead_letter == "sequence" else None
        is_full = blocked is not None and state.failure_state.is_full(
            blocked, record.offset, self.sequence_max
        )
        if self.on_dead_letter == "halt" or (is_full and self.on_sequence_full == "halt"):
            raise Defer(past, never, halts=self._halts(record, failure, is_full=is_full))
        event_id = event_id_of(record)
        log.warning(
            "dead letter",
            record=words(record),
            event_id=event_id,
            kind=failure.kind,
            handler=failure.handler,
            error=type(failure.error).__qualname__,
            reason=message_of(record, failure),
        )
        self.counts.note_failure(failure.kind, failure.handler, type(failure.error).__qualname__)
        state.filling.outbox.append(self.letters.letter(record, failure))
        if blocked is not None and not is_full:
            state.note(*state.failure_state.died(blocked, record.offset))

    def ended(
        self, record: ConsumerRecord, past: RetryContext, state: PartitionState, *, is_dead: bool
    ) -> None:
        """An event with a past has ended: forget what was noted of it."""
        for gate in (self.flood, self.poison):
            if not is_dead and gate.is_trying(place_of(record)):
                gate.close_breaker()
        if any(tried.due_ms for tried in past.tried.values()):
            state.note(*attempts_row(record.offset, None))
        if past.back is not None and not is_dead:
            self.let_pass(record, state)

    def let_pass(self, record: ConsumerRecord, state: PartitionState) -> None:
        """A dead letter was handled, or dropped: what waited behind it may come back."""
        sequence = self._sequence(record)
        row = (
            state.failure_state.came_back(sequence, record.offset) if sequence is not None else None
        )
        if row is not None:
            state.note(*row)

    def _gate(
        self, record: ConsumerRecord, failure: Failure, past: RetryContext
    ) -> HandlerBreaker | None:
        """The gate that *failure* has to pass.

        None: one that says nothing about the events that come now.
        """
        if failure.handler:
            if self.poison.is_trying(place_of(record)):  # it was read, whatever its handler says
                self.poison.close_breaker()
            return self.flood
        # Another one stopped it; what comes back was asked for.
        if failure.kind == "parked" or past.back is not None:
            return None
        self.poison.passed = self.succeeded()
        return self.poison

    def _sequence(self, record: ConsumerRecord) -> bytes | None:
        """What a dead letter would have to wait behind it: the events of its key, or all.

        None: nothing.
        """
        return b"" if self.order == "partition" else record.key

    def _failure(  # noqa: PLR0917  # what is known of it
        self,
        kind: FailureKind,
        error: BaseException,
        past: RetryContext | None,
        handler: str = "",
        attempts: int = 0,
        first_ms: int = 0,
    ) -> Failure:
        back = past.back if past is not None else None
        hops, edited, only = (
            (back.hops, back.edited, back.handler) if back is not None else (0, "", "")
        )
        return Failure(
            kind,
            error,
            self.now_ms(),
            handler or only,
            attempts,
            first_ms,
            hops,
            edited,
            bool(only),
        )

    def undecodable(self, error: Exception, past: RetryContext | None) -> Failure:
        """The failure of a record that is not an event that anybody handles."""
        return self._failure(
            "unknown_type" if isinstance(error, UnknownTypeError) else "poison", error, past
        )

    def broken(self, error: BaseException, handler: str, past: RetryContext | None) -> Failure:
        """The failure of an event whose handlers succeeded, but what they did cannot be settled."""
        return self._failure("permanent", error, past, handler, 1)

    def _postpone(self, failure: Failure, stage: int, unit: UnitOfWork, delay_s: float) -> None:
        record = unit.record
        log.info(
            "to a retry topic",
            record=words(record),
            handler=failure.handler,
            attempt=failure.attempts,
            delay_s=delay_s,
        )
        self.counts["postponed"] += 1
        again = outgoing(
            retry_topic(self.topic, self.letters.group, stage + 1),
            retry_of(record, failure, stage + 1, delay_s),
        )
        # One that is too large for the topic cannot wait there; the others are done with the event.
        letter = self.letters.letter(record, replace(failure, is_partial=True))
        unit.publish(replace(again, fallback=letter))
        if self.postponed is not None:
            self.postponed.add(place_of(record))

    def _halts(self, record: ConsumerRecord, failure: Failure, *, is_full: bool) -> str:
        what = (
            f"{words(record)} failed for good ({failure.kind}, {type(failure.error).__qualname__})"
        )
        if is_full:
            return (
                f"{what}, and {self.sequence_max} events are dead or parked already: "
                "redrive or drop some of them"
            )
        return (
            f"{what}, and this subscription halts then: mend its handler and start again, "
            "or let it skip"
        )


def _before(handler: Handler, handlers: Sequence[Handler]) -> set[str]:
    return {done.name for done in handlers[: handlers.index(handler)]}


def words(record: ConsumerRecord) -> str:
    """Where a record stands, for people."""
    return f"{record.topic}-{record.partition} offset {record.offset}"
