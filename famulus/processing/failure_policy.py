"""The policy for an event that fails: another attempt, a retry topic, or a dead letter.

The order of the questions is the policy. Is something that the handler needs unavailable? Then the
attempt does not count. May it be tried again in its lane? In a retry topic? May there be one more
dead letter? Must later events of its key wait behind it?
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.record import DeadLetters, Failure, message_of
from famulus.deadletter.redelivery import outgoing, retry_of
from famulus.deadletter.topics import retry_topic
from famulus.errors import HandlerHeldError
from famulus.observability.metrics import Counts
from famulus.processing.deferral import Defer, RetryContext, after_delay, never, stage_of
from famulus.processing.failures.circuit_breaker import CLOSED
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
    """A record has a type without a handler here."""


class ParkedError(Exception):
    """An earlier event of the same key is a dead letter."""


class EventFailedError(Exception):  # the cause is in `failure`
    """An event failed for good."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


@dataclass(frozen=True)
class FailurePolicy:
    """The failure policy of one subscription.

    Two circuit breakers guard the dead letter topic: *flood* for events that handlers fail on,
    *poison* for records that reach no handler. *succeeded* returns the number of successful
    attempts, including those whose effects are not durable yet. *now_ms* is the clock of retries,
    in milliseconds since 1970. Records that enter a retry topic and records that leave it are timed
    by this same clock.
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
    # Positions of records that were sent to a retry topic; None if no telemetry needs them.
    postponed: set[str] | None = None

    @property
    def open_breakers(self) -> list[str]:
        """Return why no further dead letters are written, as text; empty while they are."""
        return [each.why for each in (self.flood, self.poison) if each.state is not CLOSED]

    def begin(
        self,
        record: ConsumerRecord,
        past: RetryContext | None,
        state: PartitionState,
        longest_wait_s: float,
    ) -> RetryContext | None:
        """Add to *past* the attempts that an earlier owner of the partition has noted.

        Raises EventFailedError for an event behind a dead letter of its sequence. Raises Defer for
        an event whose next attempt is not due, for at most *longest_wait_s* seconds, since the
        clock of the earlier owner may have been wrong.
        """
        offset, sequence = record.offset, self._sequence(record)
        if sequence is not None and state.failure_state.is_behind(sequence, offset):
            dead = state.failure_state.sequences[sequence][0]
            raise EventFailedError(
                self._failure(
                    FailureKind.PARKED,
                    ParkedError(f"behind the dead letter of offset {dead}"),
                    past,
                )
            )
        # A retry carries its own attempt count.
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
        """Decide about a failed attempt of *handler*, one of *handlers*.

        Returns when the other handlers may go on: this one continues in a retry topic. Raises Defer
        for another attempt, EventFailedError when the event has failed for good.
        """
        record, policy = unit.record, handler.policy
        past = past or RetryContext()
        if not policy.is_outage(error):
            handler.breaker.release_probe(place_of(record))
        elif handler.breaker.note_failure(place_of(record), error):
            raise self.defer_until_probe(handler, handlers, unit, past)
        past.done |= _before(handler, handlers)
        now_ms = self.now_ms()
        before = past.tried.get(handler.name, AttemptCount())
        ran = not isinstance(error, HandlerHeldError)
        attempts, first_ms = before.attempts + past.held + ran, before.first_ms or now_ms
        stage = past.back.stage if past.back is not None else 0  # of retry topics
        if policy.is_transient(error) and attempts < policy.attempts_at(stage):
            delay_s = policy.retry.wait_s(attempts, random.random())  # no secret
            past.tried[handler.name] = AttemptCount(
                before.attempts + 1, first_ms, now_ms + round(delay_s * 1000)
            )
            unit.partition.note(*attempts_row(record.offset, past.tried))
            self.counts["retried"] += 1
            log.info(
                "retry scheduled",
                record=words(record),
                handler=handler.name,
                attempt=attempts,
                delay_s=delay_s,
                error=type(error).__name__,
            )
            past.unit = unit
            raise Defer(past, after_delay(delay_s))
        failure = self._failure(
            policy.kind(error),
            error,
            past,
            handler=handler.name,
            attempts=attempts,
            first_ms=first_ms,
        )
        if policy.is_transient(error) and stage < len(policy.delays_s):
            self._postpone(failure, stage, unit, policy.delays_s[stage])
            past.tried.setdefault(handler.name, AttemptCount())
            past.done |= {handler.name}
            return past
        raise EventFailedError(failure)

    def check_held(self, handler: Handler, past: RetryContext) -> None:
        """Raise HandlerHeldError for an event that blocked workers too often.

        The limit is the number of attempts of *handler*.
        """
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
        """Make the event the probe of the handler's open circuit breaker.

        Raises Defer when another event is the probe.
        """
        if not handler.breaker.try_acquire_probe(place_of(unit.record)):
            raise self.defer_until_probe(handler, handlers, unit, past)

    def defer_until_probe(
        self,
        handler: Handler,
        handlers: Sequence[Handler],
        unit: UnitOfWork,
        past: RetryContext | None,
    ) -> Defer:
        """Return the deferral of an event until the circuit breaker of *handler* lets it try."""
        past = past or RetryContext()
        past.done |= _before(handler, handlers)
        past.unit = unit
        return Defer(past, handler.breaker.until(place_of(unit.record)))

    def dead_letter(self, failure: Failure, unit: UnitOfWork, past: RetryContext | None) -> None:
        """Add a dead letter to the open checkpoint.

        The dead letter is sent before the event's offset is finished.

        Raises Defer when no dead letter may be written; the event then stays in its lane.
        """
        record, state = unit.record, unit.partition
        past = past or RetryContext()
        past.unit, past.done = None, frozenset()  # a deferred event starts from scratch
        breaker = self._breaker_for(record, failure, past)
        if breaker is not None and breaker.note_failure(place_of(record), failure.error):
            raise Defer(past, breaker.until(place_of(record)))
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
        """Clean up the retry state of an event that has ended, *is_dead* as a dead letter."""
        for breaker in (self.flood, self.poison):
            if not is_dead and breaker.is_trying(place_of(record)):
                breaker.close_breaker()
        if any(tried.due_ms for tried in past.tried.values()):
            state.note(*attempts_row(record.offset, None))
        if past.back is not None and not is_dead:
            self.unblock_sequence(record, state)

    def unblock_sequence(self, record: ConsumerRecord, state: PartitionState) -> None:
        """Release the events parked behind a dead letter that was handled or dropped."""
        sequence = self._sequence(record)
        row = (
            state.failure_state.came_back(sequence, record.offset) if sequence is not None else None
        )
        if row is not None:
            state.note(*row)

    def _breaker_for(
        self, record: ConsumerRecord, failure: Failure, past: RetryContext
    ) -> HandlerBreaker | None:
        """Return the circuit breaker that counts *failure*.

        None for a failure that says nothing about the events that arrive now.
        """
        if failure.handler:
            if self.poison.is_trying(place_of(record)):  # the record could be decoded
                self.poison.close_breaker()
            return self.flood
        # A parked event did not fail itself; a redriven one was asked for.
        if failure.kind is FailureKind.PARKED or past.back is not None:
            return None
        self.poison.passed = self.succeeded()
        return self.poison

    def _sequence(self, record: ConsumerRecord) -> bytes | None:
        """Return the sequence of a record: its key, or b"" for the whole partition.

        None for a record without a key.
        """
        return b"" if self.order == "partition" else record.key

    def _failure(
        self,
        kind: FailureKind,
        error: BaseException,
        past: RetryContext | None,
        *,
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
        """Return the failure of a record that cannot be decoded, or has no handler."""
        return self._failure(
            FailureKind.UNKNOWN_TYPE if isinstance(error, UnknownTypeError) else FailureKind.POISON,
            error,
            past,
        )

    def broken(self, error: BaseException, handler: str, past: RetryContext | None) -> Failure:
        """Return the failure of an event whose effects cannot be written.

        An example is an event with too many rows.
        """
        return self._failure(FailureKind.PERMANENT, error, past, handler=handler, attempts=1)

    def _postpone(self, failure: Failure, stage: int, unit: UnitOfWork, delay_s: float) -> None:
        record = unit.record
        log.info(
            "retry topic chosen",
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
        # Sent instead if the record is too large for the retry topic. The dead letter is partial,
        # since only this handler has failed.
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
    """Return the position of a record as text for people."""
    return f"{record.topic}-{record.partition} offset {record.offset}"
