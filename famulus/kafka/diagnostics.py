"""Rules of the doctor: faults of topics and machine, judged from gathered facts. Pure.

An *error* keeps the worker from starting or breaks a guarantee; a *warning* causes trouble later.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from famulus.formatting import number
from famulus.kafka.partitioner import BUILT_IN, Choose

Severity = Literal["error", "warning"]
HOUR_MS = 3_600_000
FEW_KEYS = 20  # records; fewer do not show which partitioner placed them
MISMATCH = 0.05  # tolerated share of records in another partition than expected
DISK_FREE_BYTES = 2**30
DISK_FREE_SHARE = 0.05
OPEN_FILES = 65_536  # least limit that is advised
AHEAD_MS = 60_000  # tolerated lead of a record's timestamp over the clock here
COPIES = 3  # usual replication factor
HEADERS_BYTES = 4096  # that a dead letter adds to its event


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault; *check* is its name for tools, *what* and *cure* are for people."""

    severity: Severity
    check: str
    subject: str
    what: str
    cure: str


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """Facts about a topic.

    *copies* is the lowest number of replicas of any partition. *configs* has names and values as
    the broker spells them.
    """

    partitions: int
    copies: int = 1
    configs: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: float) -> float:
        """Return a numeric setting, *default* when the cluster does not have it."""
        return float(self.configs.get(name) or default)

    @property
    def kept_ms(self) -> float:
        """Return the retention in ms, infinity for a compacted topic or one without a limit."""
        kept = self.number("retention.ms", -1)
        return (
            float("inf")
            if kept < 0 or "compact" in self.configs.get("cleanup.policy", "")
            else kept
        )


@dataclass(frozen=True, slots=True)
class Family:
    """The topics of one subscription, by purpose.

    *back* are its redelivery topics. *state* is its changelog, None without state. *may_grow* means
    that workers add partitions to the changelog when the source gets more.
    """

    source: str
    dead_letters: str
    back: Sequence[str]
    state: str | None
    dedupe_window_ms: float | None  # the longest one; None: no deduplication
    may_grow: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The disk of a process. *folder* is its state folder."""

    folder: str
    is_writable: bool
    free_bytes: int
    total_bytes: int


def about_topics(
    family: Family, topics: Mapping[str, TopicFacts], brokers: int
) -> Iterable[Finding]:
    """Yield the faults of a subscription's topics; one that is not in *topics* does not exist."""
    for name in (family.source, family.dead_letters):
        if name not in topics:
            yield Finding(
                "error",
                "topic-missing",
                name,
                "the topic does not exist, the worker will not start",
                "create it with `faust -A app topics apply`",
            )
    source = topics.get(family.source)
    if source is None:
        return
    dead = topics.get(family.dead_letters)
    if dead is not None:
        yield from _about_dead_letters(family, source, dead)
    for name in family.back:
        if name in topics and topics[name].partitions > source.partitions:
            yield Finding(
                "error",
                "topic-back-partitions",
                name,
                f"it has {topics[name].partitions} partitions, its source {source.partitions}",
                "delete it when it is empty; the worker creates it anew",
            )
    if family.state is not None and family.state in topics:
        yield from _about_state(
            family.state, source, topics[family.state], may_grow=family.may_grow
        )
    yield from _about_window(family, source)
    for name in (family.source, family.dead_letters, *([family.state] if family.state else [])):
        if name in topics:
            yield from _about_copies(name, topics[name], brokers)


def _about_dead_letters(family: Family, source: TopicFacts, dead: TopicFacts) -> Iterable[Finding]:
    name = family.dead_letters
    if dead.partitions < source.partitions:
        yield Finding(
            "warning",
            "dead-letter-partitions",
            name,
            f"it has {dead.partitions} partitions, its source {source.partitions}: dead "
            "letters of the "
            "others go to any partition",
            f"give it {source.partitions} partitions",
        )
    if dead.kept_ms < source.kept_ms and dead.kept_ms != float("inf"):
        yield Finding(
            "warning",
            "dead-letter-retention",
            name,
            (
                f"dead letters are kept for {_hours(dead.kept_ms)}, events for "
                f"{_hours(source.kept_ms)}"
            ),
            "raise its retention.ms: a dead letter is the only copy that is left",
        )
    if "compact" in dead.configs.get("cleanup.policy", ""):
        yield Finding(
            "error",
            "dead-letter-compacted",
            name,
            "it is compacted: of several dead letters of a key only the last one is kept",
            "set its cleanup.policy to delete",
        )
    largest, room = source.number("max.message.bytes", 0), dead.number("max.message.bytes", 0)
    if room and room < largest + HEADERS_BYTES:
        yield Finding(
            "warning",
            "dead-letter-size",
            name,
            f"it takes {room:,.0f} bytes, its source {largest:,.0f}: the largest events do not "
            "fit with "
            "their headers and are kept without their value",
            f"set its max.message.bytes to {largest + HEADERS_BYTES:.0f} or more",
        )


def _about_window(family: Family, source: TopicFacts) -> Iterable[Finding]:
    window_ms = family.dedupe_window_ms
    if window_ms is not None and source.kept_ms > window_ms and source.kept_ms != float("inf"):
        yield Finding(
            "warning",
            "dedupe-window",
            family.source,
            f"records are kept for {_hours(source.kept_ms)}, but recognised for "
            f"{_hours(window_ms)} only: "
            "reading the topic again from its beginning would handle the older ones a second time",
            "raise State.DedupeWindowS, or shorten retention.ms",
        )


def _about_state(
    name: str, source: TopicFacts, state: TopicFacts, *, may_grow: bool
) -> Iterable[Finding]:
    if state.partitions != source.partitions and not (
        may_grow and state.partitions < source.partitions
    ):
        yield Finding(
            "error",
            "state-partitions",
            name,
            f"it has {state.partitions} partitions, its source {source.partitions}: keys have "
            "moved to other "
            "partitions than their rows",
            "take the rows along with `faust -A app state export` and `import --replace`",
        )
    if "compact" not in state.configs.get("cleanup.policy", "compact"):
        yield Finding(
            "error",
            "state-not-compacted",
            name,
            "it is not compacted: rows that nobody has changed for its retention are lost",
            "set its cleanup.policy to compact",
        )


def _about_copies(name: str, topic: TopicFacts, brokers: int) -> Iterable[Finding]:
    in_sync = topic.number("min.insync.replicas", 1)
    if in_sync > topic.copies:
        yield Finding(
            "error",
            "in-sync",
            name,
            f"min.insync.replicas is {in_sync:.0f}, the topic has {topic.copies} copies: "
            "nothing can be "
            "written to it",
            "lower min.insync.replicas, or add copies",
        )
    elif topic.copies == 1 and brokers >= COPIES:
        yield Finding(
            "warning",
            "one-copy",
            name,
            f"it has one copy on a cluster of {brokers} brokers: a lost disk loses it",
            "reassign it to 3 copies, and set Kafka.ReplicationFactor for new topics",
        )
    elif topic.copies >= COPIES and in_sync < 2:  # one copy beside the leader's
        yield Finding(
            "warning",
            "in-sync",
            name,
            "min.insync.replicas is 1: what one broker alone has seen counts as written",
            "set min.insync.replicas to 2",
        )


def about_keys(
    topic: str, partitions: int, placed: Iterable[tuple[bytes, int]], setting: str, choose: Choose
) -> Iterable[Finding]:
    """Yield a finding if the partitioner *setting* would place records elsewhere.

    *placed* has key and partition of a sample of records. *choose* is the function of *setting*.
    """
    sample = list(placed)
    wrong = _misplaced(sample, partitions, choose)
    if len(sample) < FEW_KEYS or partitions == 1 or wrong <= MISMATCH * len(sample):
        return
    fits = [
        name
        for name, other in BUILT_IN.items()
        if _misplaced(sample, partitions, other) <= MISMATCH * len(sample)
    ]
    who = (
        f"they stand where {fits[0]} puts them"
        if fits
        else "they fit no partitioner that is known here"
    )
    cure = (
        f"set Kafka.ProducerConfig.Partitioner to {fits[0]}"
        if fits
        else "ask who writes the topic, or whether its number of partitions was changed"
    )
    yield Finding(
        "warning",
        "partitioner",
        topic,
        f"{wrong} of {len(sample)} records are not where {setting} puts their keys: {who}; "
        "records of one "
        "key from here and from there lose their order",
        cure,
    )


def _misplaced(sample: Sequence[tuple[bytes, int]], partitions: int, choose: Choose) -> int:
    # A lambda, because only the next line uses it.
    chosen: Callable[[bytes], int | None] = lambda key: choose(key, partitions)  # noqa: E731
    return sum(1 for key, partition in sample if chosen(key) not in {None, partition})


def about_times(topic: str, times_ms: Iterable[int], now_ms: int) -> Iterable[Finding]:
    """Yield a finding if the newest of *times_ms* is in the future.

    All times are ms since 1970. A lead of `AHEAD_MS` is tolerated.
    """
    ahead_ms = max(times_ms, default=0) - now_ms
    if ahead_ms > AHEAD_MS:
        yield Finding(
            "warning",
            "clock",
            topic,
            f"a record's time is {ahead_ms / 1000:,.0f} s ahead of the clock here",
            "set the clocks of this machine and of its producers by NTP",
        )


def about_retired(topic: str, waiting: int) -> Iterable[Finding]:
    """Yield a finding for a retry topic that no handler uses any more.

    *waiting* is the number of events in it: only an empty topic may be deleted.
    """
    if waiting:
        yield Finding(
            "warning",
            "retry-topic-retired",
            topic,
            f"{number(waiting, 'event')} of earlier code or settings wait in it, and no "
            "handler sends to it "
            "any more",
            "let the workers run: they read it until it is empty",
        )
    else:
        yield Finding(
            "warning",
            "retry-topic-unused",
            topic,
            "it is empty, and no handler sends to it any more",
            "delete it while no worker of the group runs",
        )


def about_place(place: Place) -> Iterable[Finding]:
    """Yield the faults of the machine."""
    if not place.is_writable:
        yield Finding(
            "error",
            "data-folder",
            place.folder,
            "the state folder cannot be written",
            "give it to the user of the worker, or set Worker.DataDir",
        )
    if place.free_bytes < max(DISK_FREE_BYTES, DISK_FREE_SHARE * place.total_bytes):
        yield Finding(
            "warning",
            "disk",
            place.folder,
            f"{place.free_bytes / 2**30:.1f} of {place.total_bytes / 2**30:.1f} GiB are free: "
            "a worker whose "
            "disk is full waits",
            "make room, or set Worker.DataDir",
        )


def about_files(partitions: int, needs: int, may: int) -> Iterable[Finding]:
    """Yield a finding if a worker with all *partitions* *needs* more files than it *may* open."""
    if may < needs:
        yield Finding(
            "warning",
            "open-files",
            "this machine",
            (
                f"a worker of all {partitions} partitions needs {needs:,} open files, its hard "
                f"limit is {may:,}"
            ),
            f"ulimit -Hn {max(needs, OPEN_FILES)}, or LimitNOFILE= in the unit",
        )


def _hours(ms: float) -> str:
    return f"{ms / HOUR_MS:,.0f} h"
