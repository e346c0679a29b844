"""Where reading begins when partitions are assigned: by the state, else the commit, else the settings."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import structlog
from faust.types import TP

from app.engine.offsets import OnCommitAhead, StartError, start_position
from app.errors import ConfigError
from app.storage.changelog import Processed

log = structlog.get_logger()


class Logs(Protocol):
    """What the partitions' logs hold."""

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Where they begin."""

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Where they end."""


class Known(NamedTuple):
    """What is known of a partition: how far its state is, what the group has committed, where Faust would read on."""

    processed: Processed | None
    committed: int | None
    read: int | None


async def starts(
    known: Mapping[TP, Known], logs: Logs, on_commit_ahead: OnCommitAhead, *, is_earliest: bool
) -> dict[TP, int]:
    """Where reading begins, where that is not the committed offset: the state is the truth.

    A partition that nobody knows anything of begins with its log if *is_earliest*, else at its end. Raises ConfigError
    when a partition's state does not belong to what the topic holds now.
    """
    states = {tp: of.processed for tp, of in known.items() if of.processed is not None}
    unknown = {tp for tp, of in known.items() if of.read is None}
    begins = await logs.earliest_offsets(*states, *(unknown if is_earliest else ()))
    ends = await logs.highwaters(*states, *(() if is_earliest else unknown))
    found = {tp: begins[tp] if is_earliest else ends[tp] for tp in unknown}
    found |= {tp: 0 for tp, of in known.items() if of.read == 0}  # where aiokafka's own seek does nothing either
    for tp, processed in states.items():
        try:
            start = start_position(
                processed.next_offset, known[tp].committed, begins[tp], ends[tp], on_commit_ahead
            )  # fmt: skip
        except StartError as error:
            raise ConfigError(
                f"{tp.topic}-{tp.partition}: {error}; "
                f"`faust -A app state replay --topic {tp.topic}` makes the state anew"
            ) from None
        if start.disagreement:
            log.warning(start.disagreement, topic=tp.topic, partition=tp.partition, goes_on_at=start.offset)
        found[tp] = start.offset
    return found
