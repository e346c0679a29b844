"""Collection of facts about an event from the logs, for `explain`.

The sources are its topic, the state changelog, the dead letters, the retry topics and the group. No
worker is asked.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

from aiokafka import TopicPartition
from faust import Record as Event

from famulus.application import Famulus
from famulus.control.pauses import Pauses
from famulus.deadletter.dead_letter import Origin, parse_dead_letter
from famulus.deadletter.index import Criteria, Entry
from famulus.deadletter.redelivery import parse_redelivery
from famulus.errors import DecodeError, PermanentError
from famulus.inspection.changelog_reader import Fold, check_size, places_of
from famulus.inspection.changelog_reader import reading as reading_state
from famulus.inspection.deadletters.reader import Reader, letters_topic, register_of
from famulus.inspection.explain.answers import Dead, Facts, Postponed
from famulus.kafka.group_members import committed_of, ends_of, members_of
from famulus.processing.subscription import Subscription
from famulus.serialization.claim_check import is_claim_check
from famulus.serialization.records import ConsumerRecord, event_id_bytes_of, event_type_of
from famulus.state.changelog import offsets_in, stored_mark
from famulus.state.dedupe import Dedupe, mark_key
from famulus.state.failure_state import FailureState
from famulus.wiring import decoder_of


@dataclass(frozen=True)
class ReadLimits:
    """Limits of the number of records to read; None means no limit.

    *events* bounds the newest records of each partition that are searched for a key or an id, and
    the records in front of an event that are searched for its key.
    """

    events: int = 100_000
    letters: int | None = None  # of the dead letter topic, its audits, a retry topic's partition
    state: int | None = None  # of one changelog partition


@dataclass(frozen=True)
class PartitionFacts:
    """Facts that all events of one partition share.

    *fold* is that of its state, empty if there is no changelog.
    """

    begin: int
    end: int
    next_offset: int
    fold: Fold
    failure_state: FailureState


class FactCollector:
    """Collector of the facts of one subscription's events; shared facts are read once."""

    def __init__(
        self,
        app: Famulus,
        reader: Reader,
        subscription: Subscription,
        pauses: Pauses,
        reach: ReadLimits,
    ) -> None:
        self._app = app
        self._pauses = pauses
        self._reach = reach
        self._reader = reader
        self._subscription = subscription
        self._types = decoder_of(app.settings, subscription, app.dispatcher)
        self._partitions: dict[int, PartitionFacts] = {}
        self._members: int | None = None
        self._postponed: dict[int, dict[int, list[Postponed]]] = {}
        self._letters: dict[Origin, list[Entry]] | None = None

    async def of(self, partition: int, offset: int) -> Facts:
        """Return the facts of the event at *offset*.

        Raises UnavailableError, TimeoutError and TooMuchError.
        """
        if partition not in self._partitions:
            self._partitions[partition] = await self._partition(partition)
        there, topic = self._partitions[partition], self._subscription.topic_name
        facts = Facts(
            topic,
            partition,
            offset,
            there.begin,
            there.end,
            next_offset=there.next_offset,
            is_ahead=any(start <= offset < end for start, end in offsets_in(there.fold.decoded)),
            tried=there.failure_state.attempts,
            members=await self._count_members(),
            pause=self._pauses.over(topic, partition),
        )
        if offset >= there.end:
            at, kafka = TopicPartition(topic, partition), self._app.settings.kafka
            ends = await ends_of(kafka, [at], self._app.settings.worker.startup_timeout_s)
            return replace(facts, written=ends.get(at, there.end))
        if offset < there.begin:
            return facts
        record = await self._reader.one(topic, partition, offset)
        if record is None:
            return facts
        facts = self._about_type(facts, record)
        letters = await self._letters_of(Origin(topic, partition, offset))
        return replace(
            facts,
            is_there=True,
            letters=letters,
            postponed=await self._postponed_of(partition, offset),
            before=await self._before(facts, there, record),
            dead_before=next(
                (
                    d
                    for d in there.failure_state.sequences.get(self._sequence(record) or b"-", [])
                    if d < offset
                ),
                None,
            ),
        )

    def _sequence(self, record: ConsumerRecord) -> bytes | None:
        return b"" if self._subscription.options.order == "partition" else record.key

    def _about_type(self, facts: Facts, record: ConsumerRecord) -> Facts:
        """Add the type of the event, its seen mark, and its fault if undecodable."""
        name = event_type_of(record.headers) or ""
        try:
            event = None if is_claim_check(record) else self._types.decode(record)
        except DecodeError as error:
            return replace(facts, type_name=name, fault=f"{error.path}: {error.reason}")
        dedupe, mark = self._subscription.options.dedupe, None
        if dedupe is not None and (dedupe.identity is None or event is not None):
            marks = self._partitions[facts.partition].fold.marks
            seen = next(
                (marks[key] for key in _keys_of(dedupe, event, record) if key in marks), None
            )
            mark = stored_mark(seen) if seen is not None else None
        return replace(
            facts,
            type_name=name,
            mark=mark,
            is_handled_type=event is not None or is_claim_check(record),
        )

    async def _partition(self, number: int) -> PartitionFacts:
        at = TopicPartition(self._subscription.topic_name, number)
        begin, end = await self._reader.span(at)
        committed = await committed_of(
            self._app.settings.kafka, [at], self._app.settings.worker.startup_timeout_s
        )
        fold = await self._fold(number)
        settled = fold.next_offset if fold.processed is not None else committed[at]
        return PartitionFacts(
            begin,
            end,
            settled if settled is not None else begin,
            fold,
            FailureState(fold.failure_state.items()),
        )

    async def _fold(self, number: int) -> Fold:
        places = (await places_of(self._app, [self._subscription]))[self._subscription]
        if number >= len(places):
            return Fold()
        async with reading_state(self._app) as logs:
            return await logs.fold(places[number], records_max=self._reach.state, keeps_rows=False)

    async def _count_members(self) -> int:
        if self._members is None:
            timeout_s = self._app.settings.worker.startup_timeout_s
            self._members = len(await members_of(self._app.settings.kafka, timeout_s))
        return self._members

    async def _before(
        self, facts: Facts, there: PartitionFacts, record: ConsumerRecord
    ) -> list[int]:
        """Return the unsettled offsets of the record's sequence in front of it."""
        if facts.offset < there.next_offset or facts.is_ahead:
            return []
        start, ahead = (
            max(there.next_offset, facts.offset - self._reach.events),
            offsets_in(there.fold.decoded),
        )
        at, sequence = TopicPartition(facts.topic, facts.partition), self._sequence(record)
        return [
            other.offset
            async for other in self._reader.between(at, start, facts.offset)
            if sequence is not None
            and self._sequence(other) == sequence
            and not any(first <= other.offset < last for first, last in ahead)
        ]

    async def _postponed_of(self, partition: int, offset: int) -> list[Postponed]:
        """Return the waits of the event at *offset* in retry topics.

        The retry topics are read once for all events of a partition.
        """
        if partition not in self._postponed:
            found = self._postponed[partition] = defaultdict[int, list[Postponed]](list)
            redrive, *topics = self._app.redelivery_topics(self._subscription)
            del redrive  # the audit of a dead letter says that it was redriven
            there = await self._reader.partitions(*topics)
            places = [
                TopicPartition(topic, partition) for topic in topics if partition < there[topic]
            ]
            kafka, timeout_s = self._app.settings.kafka, self._app.settings.worker.startup_timeout_s
            committed = await committed_of(kafka, places, timeout_s) if places else {}
            for at in places:
                begin, end = await self._reader.span(at)
                start = max(begin, committed[at] or 0)
                check_size(at.topic, end - start, self._reach.letters)
                async for record in self._reader.between(at, start, end):
                    try:
                        back = parse_redelivery(record)
                    except DecodeError:
                        continue
                    postponed = Postponed(
                        at.topic, back.handler, back.attempts, back.first_ms, back.due_ms
                    )
                    found[back.offset].append(postponed)
        return self._postponed[partition].get(offset, [])

    async def _letters_of(self, origin: Origin) -> list[Dead]:
        """Return the dead letters of the event in this group, the oldest first.

        The topic is read once for all events.
        """
        if self._letters is None:
            register = await register_of(
                self._app,
                self._reader,
                self._subscription,
                Criteria(),
                is_all=True,
                records_max=self._reach.letters,
            )
            self._letters = defaultdict(list)
            for entry in register.entries():
                self._letters[entry.id.origin].append(entry)
        entries = sorted(self._letters.get(origin, []), key=lambda entry: entry.at_ms)
        topic = letters_topic(self._app, self._subscription, self._app.group)
        found = await self._reader.letters(topic, entries)
        return [
            Dead(
                entry.cause.id,
                entry.cause.kind,
                entry.cause.handler,
                entry.cause.error,
                parse_dead_letter(found[entry.place]).message if entry.place in found else "",
                entry.at_ms,
                *((entry.settled.what, entry.settled.at_ms) if entry.settled is not None else ()),
            )
            for entry in entries
        ]


def _keys_of(dedupe: Dedupe, event: Event | None, record: ConsumerRecord) -> list[bytes]:
    """Return the keys that the record's seen mark may have; none if its identity is unknown."""
    if dedupe.identity is None or event is None:
        return [mark_key(event_id_bytes_of(record))]
    try:
        return dedupe.keys_of(event, record)
    except PermanentError:
        return []
