"""Watch of the topics that a worker needs: their existence and their partitions.

Partitions may be added to a source topic while it is read. The group's own topics for it then get
as many, and the consumer learns of the new partitions. A subscription with state by key, such as
tables, cannot follow: keys would move to other partitions than their rows.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import structlog
from faust.types import TP

from famulus.errors import ConfigError, UnavailableError
from famulus.runtime.conditions import Condition
from famulus.state.identity import restore_or_replay

log = structlog.get_logger()
SURE_S = (1.0, 2.0)  # waits before a missing topic is asked for again; then it counts as missing
# Partition counts: 0 for a missing topic, no entry if unknown. None: no answer.
Count = Callable[[Collection[str]], Awaitable[Mapping[str, int] | None]]
# Partition counts of changelogs, and of redelivery topics.
Grow = Callable[[Mapping[str, int], Mapping[str, int]], Awaitable[None]]


class Needs(NamedTuple):
    """Topics of one subscription, by cluster name.

    *letters* is the dead letter topic, *back* are the redelivery topics, *state* is the changelog.
    *may_grow* means that no state belongs to the partition of its key. Topics of *back* that are
    *retired* are read until they are empty, and are not created.
    """

    source: str
    letters: str
    back: Sequence[str]
    state: str | None
    may_grow: bool
    retired: Sequence[str] = ()


class Topics:
    """Checks the topics of *needs*.

    *sources* has the partition counts of the source topics at the start. *count* asks the cluster.
    *grow* creates redelivery topics, and adds partitions to them and to changelogs. *refresh* has
    the consumer ask the cluster again. *folder* is the state folder, for the texts.
    """

    def __init__(
        self,
        needs: Sequence[Needs],
        sources: Mapping[str, int],
        count: Count,
        *,
        grow: Grow,
        refresh: Callable[[], None],
        folder: str,
    ) -> None:
        self._needs, self._count, self._grow, self._refresh, self._folder = (
            needs,
            count,
            grow,
            refresh,
            folder,
        )
        self._known = dict(sources)

    async def look(self) -> list[Condition] | None:
        """Check the topics once, and return the failing conditions.

        None means that the cluster does not answer. Raises OperatingError when the cluster refuses
        to create a topic or to add partitions.
        """
        try:
            found = await self._counted()
            if found is None:
                return None
            for needs in self._needs:
                await self._fit(needs, found)
        except UnavailableError as error:
            log.warning("topics cannot be looked at", error=str(error))
            return None
        return [
            condition for needs in self._needs for condition in about(needs, found, self._folder)
        ]

    async def fit(self, assigned: Iterable[TP]) -> None:
        """Add partitions to the group's own topics if new ones of a source are *assigned*.

        Raises ConfigError when they cannot be added, and as `look` does.
        """
        if all(tp.partition < self._known.get(tp.topic, tp.partition + 1) for tp in assigned):
            return
        ending = [
            condition.why for condition in await self.look() or () if not condition.ends_after_s
        ]
        if ending:
            raise ConfigError("; ".join(ending))

    async def _counted(self) -> Mapping[str, int] | None:
        names = {name for needs in self._needs for name in _names(needs)}
        found = await self._count(names)
        for wait_s in SURE_S:
            if found is None or all(found.get(name) != 0 for name in names):
                break
            await asyncio.sleep(wait_s)
            found = await self._count(names)
        return found

    async def _fit(self, needs: Needs, found: Mapping[str, int]) -> None:
        """Create or grow the topics that *needs* lacks; refresh the consumer after a change."""
        wanted = found.get(needs.source, 0)
        back = (name for name in needs.back if found.get(name) or name not in needs.retired)
        lacking = {name: wanted for name in back if found.get(name, wanted) < wanted}
        states = (
            {needs.state: wanted}
            if needs.state is not None and 0 < found.get(needs.state, 0) < wanted
            else {}
        )
        if states and not needs.may_grow:
            return
        if lacking or states:
            log.warning(
                "topics of this group get what they lack",
                topic=needs.source,
                partitions=wanted,
                of=sorted({**lacking, **states}),
            )
            await self._grow(states, lacking)
        if lacking or states or wanted != self._known.get(needs.source, 0):
            self._known[needs.source] = wanted
            self._refresh()


def _names(needs: Needs) -> Iterator[str]:
    yield from (needs.source, needs.letters, *needs.back)
    if needs.state is not None:
        yield needs.state


def about(needs: Needs, found: Mapping[str, int], folder: str) -> Iterator[Condition]:
    """Yield the failing conditions of *needs*; *found* has partition counts. Pure."""
    make = "make it anew with `faust -A app topics apply`"
    source, state = found.get(needs.source), found.get(needs.state or "")
    if source == 0:
        yield Condition(
            "topic-missing",
            needs.source,
            f"topic {needs.source} was deleted: nothing of it is handled, other topics are; "
            f"{make}, or "
            "take its subscription out of agents/",
        )
    if found.get(needs.letters) == 0:
        yield Condition(
            "topic-missing",
            needs.letters,
            f"topic {needs.letters} was deleted: an event that fails for good will hold up its "
            "partition; "
            f"{make}",
            is_red=False,
        )
    if state == 0:
        yield Condition(
            "state-missing",
            needs.state or "",
            f"topic {needs.state}, which holds the state of {needs.source}, was deleted while "
            "the worker "
            f"ran; the copy in {folder} is kept: before any worker starts, "
            f"{restore_or_replay(needs.source)}",
            ends_after_s=0.0,
        )
    if source and state and source > state and not needs.may_grow:
        yield Condition(
            "partitions-added",
            needs.source,
            f"topic {needs.source} has {source} partitions by now, its state {needs.state} has "
            f"{state}: "
            "keys have moved to other partitions than their rows; read the topic with a new "
            "Kafka.ConsumerConfig.GroupId, or take the rows along with `faust -A app state "
            "export` and "
            "`import --replace`",
            ends_after_s=0.0,
        )
