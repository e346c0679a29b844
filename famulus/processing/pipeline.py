"""The processing of one event, from decoding to its effects. Start reading here.

The guarantees, which every other file serves:

1. No event is lost: a record below the committed offset was handled, was a duplicate, or is in the
   dead letter topic.
2. Events of a key are handled in order: event n+1 starts only when n is settled.
3. Each event id takes effect once in tables, within the dedupe window.
4. Tables equal the fold of the settled events: after a kill, after a move to another worker, and
   after a rebuild from the changelog.
5. The dead letter topic holds the events that failed for good, with unchanged bytes and the reason.

The path of a record: Kafka -> transport (whole fetches per partition) -> partition processor (one
partition: lanes, checkpoints, offsets) -> task pool (runs the handlers) -> **pipeline** -> open
checkpoint -> checkpoint loop (makes it durable) -> offsets finished -> Faust commits them.

The pipeline decodes the record, looks for a duplicate, and runs the handlers in a unit of work. An
event that fails is deferred and tried again, or becomes a dead letter (`failure_policy`).
"""

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from faust import Record as Event

from famulus.deadletter.redelivery import Redelivery
from famulus.deadletter.topics import stage_of
from famulus.errors import DecodeError, InvariantError, PermanentError
from famulus.observability.metric_definitions import OTHER, TYPES_MAX
from famulus.observability.metrics import Counts
from famulus.processing.deferral import RetryContext
from famulus.processing.failure_classification import close_services, failed, not_handled, take_back
from famulus.processing.failure_policy import FailurePolicy, UnknownTypeError, words
from famulus.processing.failures.circuit_breaker import CLOSED
from famulus.processing.handlers import (
    Dispatcher,
    EventTypes,
    Handler,
    OnUnknownType,
    refuse,
)
from famulus.processing.payload_redeeming import PayloadRedeemer
from famulus.serialization.claim_check import is_claim_check
from famulus.serialization.records import ConsumerRecord, Outcome, delivery_of, event_id_of
from famulus.state.changelog import store_mark
from famulus.state.dedupe import Dedupe, redelivery_key
from famulus.state.failure_state import AttemptCount
from famulus.state.partition_state import Finished, PartitionState
from famulus.state.rocksdb_store import StoreError
from famulus.state.unit_of_work import RowConflictError, UnitOfWork, enter

# (lane, record, retry context, stream time in ms, mark key, stored mark, checkpoints applied). The
# retry context is None for nearly all. The mark key is b"" if it is not known before decoding. The
# stored mark is the store's value of that key, read when so many checkpoints had reached the store;
# -1 means that the store was not read. A plain tuple, since one is made for every record.
WorkItem = tuple[Hashable, ConsumerRecord, RetryContext | None, int, bytes, bytes | None, int]


@dataclass(frozen=True)
class Pipeline:
    """The pipeline of one subscription.

    *dedupe* recognizes duplicates; None takes every record for a new event. *dedupe_redelivered* is
    for records from retry and redrive topics, so that a redelivery that is read twice takes effect
    once.
    """

    types: EventTypes
    dispatcher: Dispatcher
    dedupe: Dedupe | None
    dedupe_redelivered: Dedupe | None
    counts: Counts
    on_unknown_type: OnUnknownType
    failure_policy: FailurePolicy
    payload_redeemer: PayloadRedeemer
    redelivery_topics: tuple[str, ...] = ()  # retry and redrive topics, as on the cluster

    @property
    def has_types(self) -> bool:
        """Return whether the topic has more than one event type."""
        return len(self.types.names) > 1

    def label_of(self, record: ConsumerRecord) -> str:
        """Return the type of *record* as a label for metrics.

        The number of labels is bounded, however many type names a sender makes up.
        """
        name = self.types.name_of(record)
        return name if name in self.types.names[:TYPES_MAX] else OTHER

    def redelivery_wait_ms(self, topic: str) -> int:
        """Return the longest wait of a record in the redelivery topic *topic*, in milliseconds.

        The wait is 0 in the redrive topic.
        """
        stage = stage_of(topic)
        every = (handler.policy.delays_s for handler in self.dispatcher.handlers)
        return math.ceil(
            max((of[stage - 1] for of in every if 0 < stage <= len(of)), default=0.0) * 1000
        )

    def note(self, outcome: Outcome, count: int = 1) -> None:
        """Count *count* records that ended with *outcome*."""
        self.counts[outcome] += count
        if outcome == "handled":
            self.failure_policy.flood.passed += count

    def _lanes_of(self, records: Sequence[ConsumerRecord]) -> list[Hashable]:
        """Return the lane of each record: its key, else its event id.

        All records have one lane when the whole partition is in order.
        """
        if self.failure_policy.order == "partition":
            return [None] * len(records)
        return [event_id_of(record) if record.key is None else record.key for record in records]

    def works_of(
        self, records: Sequence[ConsumerRecord], state: PartitionState, stream_ms: Iterable[int]
    ) -> Iterator[WorkItem]:
        """Return a work item for each of *records*.

        The marks of all records are read from the store in one lookup. If the disk refuses, each
        event reads its own mark later.
        """
        known = self._lanes_of(records), records, repeat(None, len(records)), stream_ms
        keys = self.dedupe.keys(records) if self.dedupe is not None else []
        if self.dedupe is None or not keys:
            return zip(*known, *(repeat(of, len(records)) for of in (b"", None, -1)), strict=True)
        try:
            stored, applied = self.dedupe.stored(state, keys), state.applied
        except (
            StoreError
        ):  # each event looks up its own mark when it is processed, and waits for the disk
            stored, applied = [None] * len(keys), -1
        return zip(*known, keys, stored, repeat(applied, len(records)), strict=True)

    def redelivery_work(
        self, back: Redelivery, finished: Finished, place: int, stream_ms: int
    ) -> WorkItem:
        """Return a work item for a redelivery.

        *finished* is called with *place*, the offset in the redelivery topic, when the record has
        ended.
        """
        past = RetryContext(back=back, finished=finished, place=place)
        if back.action == "retry":
            past.tried[back.handler] = AttemptCount(back.attempts, back.first_ms)
        [lane] = self._lanes_of([back])
        return lane, back, past, stream_ms, redelivery_key(back, self.dedupe), None, -1

    def drop(self, back: Redelivery, state: PartitionState) -> None:
        """Give up the dead letter of *back*, and release the events parked behind it."""
        self.failure_policy.unblock_sequence(back, state)

    async def carry(self, work: WorkItem, state: PartitionState) -> Outcome:
        """Process one event, up to the open checkpoint that has its effects.

        Returns the outcome. Raises Defer when the event has to wait for something. Raises errors
        that are no failure of the event as they are.
        """
        record, past = work[1], work[2]
        unit = UnitOfWork(state, record) if past is None else self._resumed(past, record, state)
        try:
            if past is not None or state.failure_state.any:
                past = self.failure_policy.begin(
                    record, past, state, self.dispatcher.longest_wait_s
                )
            try:
                event = self.types.decode(record)
            except DecodeError as error:  # only here, to save others the check for a claim check
                event = await self._redeemed(error, unit, past)
            if event is None:
                return self._unknown(record, past, unit)
            enter(unit)
            if self._is_duplicate(work, event, unit, past):
                self._end(unit, past)
                return "duplicate"
            handlers: Sequence[Handler] = self.dispatcher.by_type.get(type(event), ())
            handlers = handlers if past is None else self._left(past, handlers)
            for handler in handlers:
                if unit.handler:  # an attempt, of this handler or another one, has ended
                    enter(unit := unit.passed())
                if handler.breaker.state is not CLOSED:
                    await close_services(unit)  # the event may be deferred here
                    self.failure_policy.acquire_probe(handler, handlers, unit, past)
                before = unit.savepoint(handler.name)
                try:
                    result = await (
                        handler.target(event)
                        if handler.is_plain and past is None
                        else self._call(handler, event, unit, past)
                    )
                    if result is not None or unit.unawaited:
                        refuse(handler, result, unit.unawaited)
                    self._succeeded(handler, unit)
                except BaseException as error:  # a handler may raise anything
                    await close_services(unit, error)  # the next attempt has services of its own
                    unit = unit.rollback(before)
                    past = failed(
                        self.failure_policy, handler, handlers, error=error, unit=unit, past=past
                    )
            if unit.services is not None:
                await close_services(unit)
            self._join(unit, past)
        except BaseException as error:  # what is no failure of the event is raised again
            await close_services(unit, error)
            not_handled(self.failure_policy, error, unit, past)
            return "dead_lettered"
        finally:
            self._leave(unit)
        return "handled"

    @staticmethod
    def _succeeded(handler: Handler, unit: UnitOfWork) -> None:
        """Note the success of an attempt, and withdraw a time limit that passed during it."""
        if unit.is_timed_out:
            take_back(unit)
        breaker = handler.breaker
        breaker.passed += 1
        if breaker.state is not CLOSED:
            breaker.close_breaker()

    def _join(self, unit: UnitOfWork, past: RetryContext | None) -> None:
        """Add the effects of a handled event to the open checkpoint."""
        if unit.is_undone:  # and its handler has caught the error
            raise RowConflictError
        if unit.mark or unit.rows or unit.outbox or unit.reads:
            unit.join()
        if past is not None:
            self._end(unit, past)

    def _leave(self, unit: UnitOfWork) -> None:
        """Free the resources of the event; a deferred event keeps its unit of work."""
        if unit.bytes_redeemed:
            self.payload_redeemer.let_go(unit)
        if not unit.is_resting:
            unit.is_ended = True
            if unit.is_live or unit.waiters:
                unit.end()

    async def _redeemed(
        self, error: DecodeError, unit: UnitOfWork, past: RetryContext | None
    ) -> Event | None:
        """Return the event that a claim check stands for.

        Raises *error* for a record that is no claim check.
        """
        if not is_claim_check(unit.record):
            raise error
        return self.types.decode(await self.payload_redeemer.redeem(unit, past), is_redeemed=True)

    @staticmethod
    def _resumed(past: RetryContext, record: ConsumerRecord, state: PartitionState) -> UnitOfWork:
        unit = past.unit or UnitOfWork(state, record, past.waiters())
        unit.is_resting = False
        return unit

    def _is_duplicate(
        self, work: WorkItem, event: Event, unit: UnitOfWork, past: RetryContext | None
    ) -> bool:
        """Return whether the event was seen before. If not, set the mark of *unit*."""
        dedupe = self.dedupe if past is None or past.back is None else self.dedupe_redelivered
        if dedupe is None or unit.mark is not None:  # with a mark, it was deferred after the check
            return False
        _, record, _, stream_ms, key, stored, applied = work
        before: list[bytes] = []
        if not key:
            key, *before = dedupe.keys_of(event, record)
        raw = unit.earlier(key, applied, stored)  # None, nearly always
        for older in before:  # only if the subscription has an *identity*
            raw = raw or unit.earlier(older, -1, None)
        if (
            raw is not None
            and (earlier := dedupe.remembered(raw, type(event), stream_ms)) is not None
        ):
            self.counts.note_duplicate(unit.event_id, record, earlier.seen_ms, earlier.offset)
            return True
        unit.leave(key, store_mark(stream_ms, record.offset))
        return False

    def _unknown(
        self, record: ConsumerRecord, past: RetryContext | None, unit: UnitOfWork
    ) -> Outcome:
        """Return the outcome of a record whose type has no handler here.

        Raises InvariantError or UnknownTypeError, as *on_unknown_type* says.
        """
        if self.on_unknown_type == "fail":
            raise InvariantError(f"{words(record)} is of a type that nobody here handles")
        if self.on_unknown_type == "dead_letter":
            raise UnknownTypeError("a type that nobody here handles")
        self._end(unit, past)
        return "ignored"

    def _end(self, unit: UnitOfWork, past: RetryContext | None) -> None:
        """Clean up the retry state of an event that ended, and not as a dead letter."""
        if past is not None:
            self.failure_policy.ended(unit.record, past, unit.partition, is_dead=False)

    @staticmethod
    def _left(past: RetryContext, handlers: Sequence[Handler]) -> Sequence[Handler]:
        """Return the handlers that have yet to run.

        Raises PermanentError when the only handler of a redelivered event does not exist any more.
        """
        left = past.left(handlers)
        if past.back is not None and past.back.handler and not left and not past.done:
            raise PermanentError(f"there is no handler {past.back.handler} any more")
        return left

    async def _call(
        self, handler: Handler, event: Event, unit: UnitOfWork, past: RetryContext | None
    ) -> object:
        """Call a handler that needs more than the event, or is called with a retry context."""
        if past is not None and past.held:
            self.failure_policy.check_held(handler, past)
        if handler.is_plain:
            return await handler.target(event)
        if handler.services and unit.services is None:
            unit.services = self.dispatcher.scope()
        delivery = None
        if handler.wants_delivery:
            tried = past.tried.get(handler.name) if past is not None else None
            held = past.held if past is not None else 0
            attempts = held + (tried.attempts if tried is not None else 0)
            delivery = delivery_of(unit.record, unit.event_id, attempts + 1)
        await self.dispatcher.call(handler, event, delivery, unit.services)
        return None
