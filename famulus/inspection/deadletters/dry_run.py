"""Dry runs of dead letters, for `dlq redrive --dry-run`.

The handlers of this code run on the events, and the rows and events that they write are discarded.
Rows are read from the state changelog; changes of one dead letter are visible to the next one. Side
effects of handlers outside of the engine, such as calls of services, are real.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, cast

import msgspec
from faust import Record as Event

from famulus.application import Famulus
from famulus.deadletter.dead_letter import Origin
from famulus.deadletter.index import Entry, Plan
from famulus.deadletter.masking import masked
from famulus.deadletter.redelivery import Redelivery
from famulus.errors import ClaimStoreError, DecodeError, HandlerTimeoutError, UnavailableError
from famulus.inspection.changelog_reader import Fold, places_of
from famulus.inspection.changelog_reader import reading as reading_state
from famulus.inspection.deadletters.reader import Reader
from famulus.inspection.deadletters.redelivery_builder import StaysError, batches, sent_back
from famulus.processing.handlers import Handler
from famulus.processing.subscription import Subscription
from famulus.serialization.claim_check import is_claim_check
from famulus.serialization.records import delivery_of, event_type_of
from famulus.state.changelog import ROW, store_mark, table_and_key
from famulus.state.dedupe import redelivery_key
from famulus.state.partition_state import PartitionState
from famulus.state.unit_of_work import UnitOfWork, enter
from famulus.wiring import decoder_of

Verdict = Literal["handled", "fails", "parked", "duplicate", "ignored", "stays"]


@dataclass(frozen=True)
class Change:
    """A row that would be written, as JSON.

    *before* is None if the row did not exist, *after* is None if it would be deleted.
    """

    table: str
    key: str
    before: str | None
    after: str | None


@dataclass
class DryRunResult:
    """Outcome of the dry run of one dead letter.

    If it fails, *handler*, *error* (a type) and *message* say where and why.
    """

    entry: Entry
    verdict: Verdict
    handler: str = ""
    error: str = ""
    message: str = ""
    rows: list[Change] = field(default_factory=list)
    events: list[tuple[str, str, str]] = field(default_factory=list)  # topic, type and key


@dataclass
class End:
    """Dead letters with the same outcome, counted; *first* is an example."""

    first: DryRunResult
    count: int = 0
    rows: int = 0
    events: int = 0


class Rows:
    """State of one partition in memory, used in place of a store."""

    is_open = True

    def __init__(self, fold: Fold) -> None:
        self.stream_ms = fold.decoded.stream_ms
        self._rows = {**fold.rows, **fold.marks}

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a row, None if there is none."""
        return self._rows.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Return the values of rows, None for each that does not exist."""
        return [self._rows.get(key) for key in keys]

    def items(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Return the rows whose keys begin with *prefix*, in the order of the keys.

        The first one is at or after *prefix* followed by *start*.
        """
        return iter(
            sorted(
                (k, v)
                for k, v in self._rows.items()
                if k.startswith(prefix) and k >= prefix + start
            )
        )

    def update(self, rows: dict[bytes, bytes | None]) -> None:
        """Write *rows*; a value of None deletes the row."""
        for key, value in rows.items():
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value


async def dry_run(
    app: Famulus,
    reader: Reader,
    subscription: Subscription,
    plan: Plan,
    edited: bytes | None = None,
) -> AsyncIterator[DryRunResult]:
    """Run the handlers on each dead letter that *plan* chose, in that order, without effects.

    *edited* replaces the value of the event; the plan has a single dead letter then. The rows and
    marks of one partition are held in memory. Raises ConfigError when a handler asks for a service
    that is not registered.
    """
    app.dispatcher.check()
    topic = app.dead_letter_topic(subscription)
    by_partition = subscription.options.order == "partition"
    # The dead letter of each sequence that would fail again: later ones would be parked behind it.
    failed: dict[object, Origin] = {}
    async with reading_state(app) as logs:
        places = {at.partition: at for at in (await places_of(app, [subscription]))[subscription]}
        for number, group in groupby(plan.chosen, key=lambda entry: entry.id.origin.partition):
            rows = Rows(await logs.fold(places[number]) if number in places else Fold())
            stage = _Stage(app, subscription, number, rows)
            for batch in batches(list(group), 0):
                found = await reader.letters(topic, batch)
                for entry in batch:
                    sequence = entry.sequence(by_partition=by_partition)
                    if sequence in failed:
                        yield DryRunResult(entry, "parked", message=f"behind {failed[sequence]}")
                        continue
                    trial = await _trial(reader, stage, entry, found.get(entry.place), edited)
                    if trial.verdict in ("fails", "stays") and sequence in plan.ordered:
                        failed[sequence] = entry.id.origin
                    yield trial
            stage.end()


async def _trial(
    reader: Reader, stage: "_Stage", entry: Entry, record: Any, edited: bytes | None
) -> DryRunResult:
    try:
        _, returned = await sent_back(reader, record, "redrive", edited)
    except StaysError as error:
        return DryRunResult(entry, "stays", message=str(error))
    return await stage.trial(entry, returned)


class _Stage:
    """One source partition, set up as on a worker that owns it.

    Its records are `Redelivery` objects, which have the attributes of a consumer record.
    """

    def __init__(self, app: Famulus, subscription: Subscription, number: int, rows: Rows) -> None:
        self._app = app
        self._subscription = subscription
        self._number = number
        self._rows = rows
        self._types = decoder_of(app.settings, subscription, app.dispatcher)

    def end(self) -> None:
        """Remove the partition from the subscription."""
        self._subscription.held.pop(self._number, None)

    async def trial(self, entry: Entry, record: Redelivery) -> DryRunResult:
        try:
            sealed = is_claim_check(record)
            redeemed = await self._app.claims.redeem(record) if sealed else record
            event = self._types.decode(redeemed, is_redeemed=sealed)
        except ClaimStoreError as error:
            raise UnavailableError(f"the store of large payloads is away: {error}") from error
        except DecodeError as error:
            return DryRunResult(entry, "fails", error="DecodeError", message=str(error))
        if event is None:
            return self._unknown(entry, record)
        if self._is_duplicate(event, record):
            return DryRunResult(
                entry, "duplicate", message="an event with its id was handled already"
            )
        handlers = self._app.dispatcher.by_type.get(type(event), [])
        if record.handler:
            handlers = [handler for handler in handlers if handler.name == record.handler]
            if not handlers:
                return DryRunResult(
                    entry,
                    "fails",
                    record.handler,
                    "PermanentError",
                    "there is no such handler any more",
                )
        # Any: a worker has a store on disk here; `Rows` has only the methods that are needed.
        subscription, group_bytes = self._subscription, self._app.settings.state.group_bytes
        partition = PartitionState(
            self._number, cast(Any, self._rows), group_bytes, subscription.topic_name
        )
        subscription.held[self._number] = partition
        unit = UnitOfWork(partition, record)
        # In a separate task, so that context variables which handlers set do not leak out of it.
        failed = await asyncio.create_task(self._handle(event, unit, handlers))
        if failed is not None:
            name, fault = failed
            says = masked(str(fault), record) if self._types.hides else str(fault)
            return DryRunResult(
                entry, "fails", name, f"{type(fault).__module__}.{type(fault).__qualname__}", says
            )
        filled = partition.filling
        trial = DryRunResult(
            entry, "handled", rows=[self._change(key, value) for key, value in filled.rows.items()]
        )
        for sent in filled.outbox:
            key = (sent.key or b"").decode("utf-8", "backslashreplace")
            trial.events.append((sent.topic, event_type_of(sent.headers) or "", key))
        self._rows.update(
            {
                **filled.rows,
                self._marks(event, record)[0]: store_mark(self._rows.stream_ms, record.offset),
            }
        )
        return trial

    async def _handle(
        self, event: Event, unit: UnitOfWork, handlers: list[Handler]
    ) -> tuple[str, Exception] | None:
        """Run each handler once; return the first one that fails, with its error, or None."""
        enter(unit)
        name = ""
        try:
            for handler in handlers:
                name = handler.name
                unit.savepoint(name)
                await self._call(handler, event, unit)
            unit.join()
        except Exception as error:  # a handler may raise anything
            return name, error
        finally:
            unit.end()
        return None

    async def _call(self, handler: Handler, event: Event, unit: UnitOfWork) -> None:
        limit_s = self._app.timeouts_s.get(handler.name)
        try:
            async with asyncio.timeout(limit_s) as timeout:
                await self._app.dispatcher.call(
                    handler, event, delivery_of(unit.record, unit.event_id, 1)
                )
        except TimeoutError:
            if timeout.expired():
                raise HandlerTimeoutError(f"it took longer than {limit_s:g} s") from None
            raise

    def _unknown(self, entry: Entry, record: Any) -> DryRunResult:
        what = f"nobody here handles {event_type_of(record.headers) or 'its type'}"
        is_left = self._subscription.options.on_unknown_type == "ignore"
        return DryRunResult(entry, "ignored" if is_left else "fails", message=what)

    def _marks(self, event: Event, back: Redelivery) -> list[bytes]:
        dedupe = self._subscription.options.dedupe
        key = redelivery_key(back, dedupe)
        return dedupe.keys_of(event, back) if dedupe is not None and not key else [key]

    def _is_duplicate(self, event: Event, back: Redelivery) -> bool:
        dedupe = self._subscription.dedupe_redelivered
        if dedupe is None:
            return False
        raw = next(
            (
                found
                for key in self._marks(event, back)
                if (found := self._rows.get(key)) is not None
            ),
            None,
        )
        stream_ms = self._rows.stream_ms
        return raw is not None and dedupe.remembered(raw, type(event), stream_ms) is not None

    def _change(self, row: bytes, value: bytes | None) -> Change:
        name, key = table_and_key(row) if row[:1] == ROW else ("?", row)
        table = self._subscription.tables[name]
        text = table.key_text(key)

        def shown(raw: bytes | None) -> str | None:
            if raw is None:
                return None
            try:
                return table.shown(key, raw).decode()
            except ValueError as error:  # a row written by older code
                return msgspec.json.encode(f"not shown: {error}").decode()

        return Change(name, text, shown(self._rows.get(row)), shown(value))
