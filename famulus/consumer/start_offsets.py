"""Where reading begins when partitions are assigned: by the state, else the commit, else the settings."""

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
    """What the partitions' logs hold, and what the group has committed."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Where they begin."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Where they end."""

    async def partitions(self, topics: Collection[str]) -> set[TP]:
        """Every partition of *topics*, whoever has it."""

    async def commits(self, partitions: Collection[TP]) -> Mapping[TP, int]:
        """What the group has committed of *partitions*; nothing is left out."""


class KnownPositions(NamedTuple):
    """What is known of a partition: how far its state is, what the group has committed, where Faust would read on.

    *source_id* is the topic's, *note* what stands beside the commit. *is_anew*: the topic is not
    the one that this process has read before. *epoch_end* is where the records end of the leader
    epoch that the state knows, if that is known.
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
        """Whether nothing is known of this topic, but of one of that name before it.

        Without state that may be.
        """
        return not self.has_state and (
            self.is_anew or is_other(self.note.source_id, self.source_id)
        )


@dataclass
class StartOffsets:
    """Where reading *begins*, where that is not the committed offset, and how many records were *gone* before.

    *fresh* are the ends of all partitions of topics that begin there with `latest`: they are to be
    committed at once.
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
    """Find where reading begins: the state is the truth.

    A partition that nobody knows anything of begins with its log if *is_earliest*, else at its end;
    yet one of a topic that the group does know is new, and begins with its log too. So does one of
    a topic that was made anew and has no state. One whose log begins behind what is known goes on
    there. Raises ConfigError when a partition's state does not belong to what the topic holds now,
    or is lost.
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
    """Have a partition without state begin with its log, if it does not go on where the group has committed."""
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
    elif of.read == 0:  # where aiokafka's own seek does nothing either
        found.begins[tp] = 0


async def _begin_at_end(
    unknown: AbstractSet[TP], topics_known: AbstractSet[str], cluster: Cluster, found: StartOffsets
) -> None:
    """Have those of *unknown* begin at the end of their log whose topics the group knows nothing of.

    The group knows a topic when it has committed any of its partitions. So the first worker commits
    all of them at once: the others find where theirs begins, and a partition that is added later
    has no commit.
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
    """Raise ConfigError when the state of a partition is another topic's, or is lost."""
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
