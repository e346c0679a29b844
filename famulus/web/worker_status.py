"""Status of a worker, read at the time of the question, for views, console and metrics.

One place for it keeps two views from differing about lag or a halted partition. Nothing is kept
between two questions.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from famulus.application import Famulus
from famulus.kafka.admin import admin_of
from famulus.kafka.group_admin import GroupAdmin
from famulus.observability import metric_definitions as c
from famulus.observability.history import Sample
from famulus.observability.metrics import Counts
from famulus.processing.partition_processor import PartitionProcessor
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import Outcome
from famulus.serialization.redaction import hidden, places_in
from famulus.state.tables import Row, Table
from famulus.web.readiness import is_ready, open_since, paused, stuck, waiting, why_not_ready

ASK_S = 5.0  # for the cluster to say who is in the group


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionNow:
    """One partition of this worker at one moment.

    *in_flight* are records that were received and have not finished: *in_hand* are with handlers,
    *waiting* have not started, *resting* are deferred. *settled* and *committed* are next offsets,
    None before any; *lag* is in records up to *end*, None before the first fetch; *age_s* is the
    age of the oldest record in flight, by the stream's time, None without one. *halted*, *blocked*
    and *paused* are the reasons for no progress, empty while there is progress; with *is_unwritten*
    it is *blocked* by the disk. *is_held_up* means that it waits for an open transaction.
    """

    place: TP
    in_flight: int
    in_hand: int
    waiting: int
    resting: int
    oldest_s: float
    is_window_full: bool
    settled: int | None
    committed: int | None
    commit_gap: int
    lag: int | None
    halted: str
    blocked: str
    paused: str
    end: int | None = None
    age_s: float | None = None
    is_unwritten: bool = False
    is_held_up: bool = False


def partitions_of(app: Famulus) -> Iterator[PartitionNow]:
    """Yield the partitions of the subscriptions that this worker owns."""
    for tp, processor in app.assigned.processors.items():
        oldest_ms, committed, end = (
            processor.in_flight.oldest_ms,
            _committed(app, tp),
            _log_end(app, tp),
        )
        settled = (
            processor.begin
            if processor.checkpointed_offset is None
            else processor.checkpointed_offset
        )
        yield PartitionNow(
            place=tp,
            in_flight=processor.offsets.in_flight,
            in_hand=processor.lanes.held,
            waiting=processor.lanes.waiting,
            resting=processor.lanes.resting,
            oldest_s=0.0 if oldest_ms is None else max(time.time() - oldest_ms / 1000, 0.0),
            is_window_full=processor.in_flight.is_held,
            settled=processor.checkpointed_offset,
            committed=committed,
            commit_gap=max(settled - (processor.begin if committed is None else committed), 0),
            lag=None if end is None else processor.behind(end),
            halted=processor.halted,
            blocked=processor.blocked,
            paused=processor.paused,
            is_unwritten=bool(processor.unwritten),
            end=end,
            is_held_up=open_since(app, tp) is not None,
            age_s=None
            if processor.in_flight.head_ms is None
            else max(time.time() - processor.in_flight.head_ms / 1000, 0.0),
        )


def returning_lag(app: Famulus) -> Iterator[tuple[TP, int]]:
    """Yield the lag of each partition of the retry and redrive topics."""
    for tp, processor in app.assigned.returning.items():
        if (end := _log_end(app, tp)) is not None:
            yield tp, max(end - _settled_back(app, tp, processor), 0)


def overview_of(app: Famulus) -> dict[str, Any]:  # Any: what the template shows
    """Return the values of the console's overview: the present work, and what is stuck."""
    partitions = sorted(partitions_of(app), key=lambda now: now.place)
    outcomes = dict.fromkeys(get_args(Outcome), 0)
    for subscription in app.subscriptions.values():
        for name in outcomes:
            outcomes[name] += subscription.counts[name]
    returning = sorted((tp, lag) for tp, lag in returning_lag(app) if lag)
    scheduled = app.scheduler.blocked if app.scheduler is not None else ""
    shut = [
        why for pipeline in app.pipelines.values() for why in pipeline.failure_policy.open_breakers
    ]
    return {
        "is_ready": is_ready(app),
        "why": why_not_ready(app) if not stuck(app) else "",
        "flooded": [*shut, scheduled] if scheduled else shut,
        "overdue": app.assigned.task_pool.overdue(app.settings.worker.deadline_s),
        "waiting": waiting(app),
        "paused": paused(app),
        "told": app.assigned.control_state.words(),
        "partitions": partitions,
        "returning": returning,
        "outcomes": outcomes,
        "settled": sum(outcomes.values()),
        "lag": sum(now.lag or 0 for now in partitions) + sum(lag for _, lag in returning),
        "unknown": sum(now.lag is None for now in partitions),
        "in_flight": sum(now.in_flight for now in partitions),
        "resting": sum(now.resting for now in partitions),
        "version": app.settings.worker.version,
    }


def sample_of(app: Famulus) -> Sample:
    """Return a sample for the charts of the overview."""
    counts = [subscription.counts for subscription in app.subscriptions.values()]
    failed = sum(of["retried"] + of["postponed"] + of["dead_lettered"] for of in counts)
    lag = sum(now.lag or 0 for now in partitions_of(app)) + sum(
        lag for _, lag in returning_lag(app)
    )
    return Sample(
        time.monotonic(), sum(of[name] for of in counts for name in get_args(Outcome)), failed, lag
    )


async def workers_of(app: Famulus) -> list[tuple[str, list[tuple[str, list[int]]]]]:
    """Return the members of the group by name, each with its partitions by topic.

    Raises UnavailableError, AccessError.
    """
    async with admin_of(app.settings.kafka, ASK_S) as admin:
        members = await GroupAdmin(admin, app.group).members()
    return [
        (name, by_topic(TP(at.topic, at.partition) for at in places))
        for name, places in sorted(members.each)
    ]


def by_topic(places: Iterable[TP]) -> list[tuple[str, list[int]]]:
    """Partition numbers by topic, all ascending."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for topic, partition in sorted(places):
        found[topic].append(partition)
    return list(found.items())


def failures_of(counts: Counts) -> list[dict[str, object]]:
    """Count the dead letters by reason, the most frequent first."""
    return [
        {"kind": kind, "handler": handler, "error": error, "count": count}
        for (kind, handler, error), count in counts.failures.most_common()
    ]


def bounded(failures: Counter[tuple[str, str, str]]) -> Counter[tuple[str, str, str]]:
    """*failures* with the error types that came first; those that came later count as `other`.

    The first ones, not the most frequent, since a series must never go back.
    """
    named: set[str] = set()
    found: Counter[tuple[str, str, str]] = Counter()
    for (kind, handler, error), count in failures.items():
        if len(named) < c.ERROR_TYPES_MAX:
            named.add(error)
        found[kind, handler, error if error in named else c.OTHER] += count
    return found


def tables_of(app: Famulus) -> dict[str, Table[Any, Any]]:
    """Every table of this worker by its name."""
    return {name: t for s in app.subscriptions.values() for name, t in s.tables.items()}


def rows_of(
    table: Table[Any, Any], after: bytes | None, limit: int
) -> tuple[list[Row], str | None]:
    """Return a page of at most *limit* settled rows, and the *after* of the next page.

    *after* is as `Table.position` has it, None after the last page. Keys and values are JSON.
    """
    page = table.page(after, limit + 1)
    shown, more = page[:limit], len(page) > limit
    return [_as_raw(row) for row in shown], shown[-1].text if more else None


def _as_raw(row: Row) -> Row:
    try:
        return row._replace(
            key=msgspec.Raw(as_json(row.key)), value=msgspec.Raw(as_json(row.value))
        )
    except Exception as error:  # the code of users' types
        return Row(
            row.text, msgspec.Raw(as_json(row.text)), msgspec.Raw(b"null"), type(error).__name__
        )


def as_json(value: object) -> bytes:
    """*value* as JSON, Records of tables included, without what they call sensitive."""
    return msgspec.json.encode(value, enc_hook=_raw)


def _raw(record: Any) -> msgspec.Raw:
    return msgspec.Raw(
        hidden(codec_of(type(record)).encode(record), places_in(type(record))) or b"null"
    )


def _settled_back(app: Famulus, tp: TP, processor: PartitionProcessor) -> int:
    return processor.backs.of[tp].offsets.next_offset or _committed(app, tp) or 0


def _committed(app: Famulus, tp: TP) -> int | None:
    consumer = app._consumer
    return None if consumer is None else consumer._committed_offset.get(tp)  # type: ignore[attr-defined]


def _log_end(app: Famulus, tp: TP) -> int | None:
    """One past the newest record of *tp* as of its last fetch, None before any."""
    consumer = app._consumer
    try:
        return None if consumer is None else consumer.highwater(tp)
    except (AssertionError, AttributeError, KeyError, ConsumerNotStarted):
        return None  # taken away meanwhile: aiokafka's thread knows before we do
