"""Start offsets of assigned partitions: from the state, else the commit, else the settings."""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import structlog
from faust.types import TP

from famulus.errors import ConfigError
from famulus.processing.offset_tracker import OnCommitAhead, StartError, gone, start_offset
from famulus.state.changelog import SourcePosition
from famulus.state.identity import CommitNote, check_leader_epoch, is_other, made_anew, replay

log = structlog.get_logger()


class Cluster(Protocol):
    """Access to the offsets of the logs and of the group's commits."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the first offset of each log."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Return the end offset of each log."""

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Return every partition of *topics*, including those of other members."""

    async def commits(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """Return the group's committed offsets of *partitions*, without those that have none."""


class KnownPositions(NamedTuple):
    """Known positions of a partition: its state, the group's commit and Faust's read offset.

    *read* is None when Faust knows no offset. *source_id* is the topic's id, *note* the metadata of
    the commit. *has_state* tells if the subscription keeps state. *is_anew* means that the topic
    was deleted and created again since this process read it. *epoch_end* is the end of the records
    of the leader epoch in the state, None when unknown.
    """

    processed: SourcePosition | None
    committed: int | None
    read: int | None
    source_id: str = ""
    note: CommitNote = CommitNote()
    has_state: bool = True
    is_anew: bool = False
    epoch_end: int | None = None

    @property
    def begins_anew(self) -> bool:
        """Return whether the topic was recreated, so that its known positions do not apply.

        Always False for a subscription with state, for which a recreated topic is an error.
        """
        return not self.has_state and (
            self.is_anew or is_other(self.note.source_id, self.source_id)
        )


@dataclass
class StartOffsets:
    """Start offsets that differ from the commit, and the number of records lost before them.

    *begins* has the start offsets, *gone* the lost records. *fresh* has the end offsets of all
    partitions of topics that start there because of `latest`; the caller commits these at once.
    """

    begins: dict[TP, int] = field(default_factory=dict)
    gone: dict[TP, int] = field(default_factory=dict)
    fresh: dict[TP, int] = field(default_factory=dict)


async def find_start_offsets(
    known: Mapping[TP, KnownPositions],
    cluster: Cluster,
    on_commit_ahead: OnCommitAhead,
    *,
    is_earliest: bool,
) -> StartOffsets:
    """Find where reading begins; the state takes precedence over the commit.

    A partition without state and commit begins at the start of its log if *is_earliest*, else at
    its end. Two kinds of partitions always begin at the start: new partitions of a topic that the
    group has read before, and those of a recreated topic without state. When the log begins behind
    the known position, reading begins with the log.

    Raises ConfigError when a partition's state is lost or does not belong to what the topic holds
    now.
    """
    _check(known)
    anew = {tp for tp, of in known.items() if of.begins_anew}
    states = {tp: of.processed for tp, of in known.items() if of.processed is not None}
    unknown = {tp for tp, of in known.items() if of.read is None} - states.keys() - anew
    found = StartOffsets()
    if unknown and not is_earliest:
        await _begin_at_end(unknown, {tp.topic for tp in known.keys() - unknown}, cluster, found)
    begins = await cluster.earliest_offsets(*known.keys() - found.begins.keys())
    ends = await cluster.highwaters(*states)
    for tp in begins.keys() - states.keys():
        _begin(tp, known[tp], begins[tp], found)
    for tp, processed in states.items():
        try:
            start = start_offset(
                processed.next_offset, known[tp].committed, begins[tp], ends[tp], on_commit_ahead
            )
        except StartError as error:
            raise ConfigError(
                f"{tp.topic}-{tp.partition}: {error}; "
                f"`faust -A app state replay --topic {tp.topic}` makes the state anew"
            ) from None
        if start.disagreement:
            log.warning(
                start.disagreement, topic=tp.topic, partition=tp.partition, goes_on_at=start.offset
            )
        found.begins[tp] = start.offset
        if start.gone:
            found.gone[tp] = start.gone
    return found


def _begin(tp: TP, of: KnownPositions, begin: int, found: StartOffsets) -> None:
    """Set the start of a partition without state, unless the committed offset applies."""
    if of.begins_anew:
        log.warning(
            "the topic was deleted and made anew; it is read from its beginning",
            topic=tp.topic,
            partition=tp.partition,
            committed_before=of.committed,
        )
        found.begins[tp] = begin
    elif of.read is None:
        found.begins[tp] = begin
    elif of.read < begin:
        found.begins[tp], found.gone[tp] = begin, begin - of.read
        log.warning(gone(of.read, begin), topic=tp.topic, partition=tp.partition, goes_on_at=begin)
    elif of.read == 0:  # here, too, aiokafka's own seek does nothing
        found.begins[tp] = 0


async def _begin_at_end(
    unknown: AbstractSet[TP], topics_known: AbstractSet[str], cluster: Cluster, found: StartOffsets
) -> None:
    """Set start offsets of *unknown* partitions: the end, for topics new to the group.

    The group knows a topic when it has committed any of its partitions. The first worker therefore
    commits all of them at once. Other workers then find a commit for theirs, and a partition that
    is added later has none.
    """
    every = await cluster.partitions({tp.topic for tp in unknown})
    commits = await cluster.commits(every | unknown)
    found.begins |= {tp: commits[tp] for tp in unknown & commits.keys()}  # another worker was first
    topics = {tp.topic for tp in unknown} - topics_known - {tp.topic for tp in commits}
    found.fresh = dict(
        await cluster.highwaters(*(tp for tp in every | unknown if tp.topic in topics))
    )
    found.begins |= {tp: found.fresh[tp] for tp in unknown & found.fresh.keys()}
    for tp in unknown - found.begins.keys():
        log.warning(
            "a new partition of a topic that the group reads; it is read from its begin, whatever "
            "AutoOffsetReset says",
            topic=tp.topic,
            partition=tp.partition,
        )


def _check(known: Mapping[TP, KnownPositions]) -> None:
    """Raise ConfigError when the state of a partition is lost or belongs to another topic."""
    for tp, of in known.items():
        processed = of.processed
        if processed is not None:
            if is_other(processed.source_id, of.source_id):
                raise made_anew(tp.topic, processed.source_id, of.source_id)
            check_leader_epoch(tp.topic, tp.partition, processed.next_offset, of.epoch_end)
        elif of.has_state and of.note.has_state:
            raise ConfigError(
                f"{tp.topic}-{tp.partition}: the group has committed offset {of.committed} "
                "with a state, and there is "
                "none now: its changelog was emptied or made anew, and no store of this worker "
                "has it; on the machine "
                f"that has it, `faust -A app state restore-changelog --topic {tp.topic}` "
                "writes it back, "
                f"or {replay(tp.topic)}"
            )
