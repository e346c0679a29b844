"""Topics that only one group uses: creation at the worker's start, growth, and retirement."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping

import structlog

from famulus.config import Settings
from famulus.control.admin_topic import prepare_admin_topics
from famulus.deadletter.topics import retry_number
from famulus.kafka.admin import prepare_redelivery_topics, prepare_state_topics, topics_like
from famulus.kafka.group_progress import unread
from famulus.kafka.topic_configs import check_compacted
from famulus.producer.scheduling import LONGEST_H, WAITS_S

log = structlog.get_logger()


async def make_own_topics(
    settings: Settings,
    states: Mapping[str, int],
    may_grow: Collection[str],
    back: Mapping[str, int],
    scheduled: str | None,
) -> None:
    """Create changelogs (*states*) and redelivery topics (*back*), with their partition counts.

    Changelogs in *may_grow* get as many partitions as their source has now. The admin topics, and
    the topic *scheduled* unless it is None, are created, too. All requests run at once. Raises
    OperatingError, after all of them have ended, and ConfigError for a changelog that is not
    compacted.
    """
    kafka, timeout_s = settings.kafka, settings.worker.startup_timeout_s
    kept_h = settings.dead_letter.retention_h
    made: list[Awaitable[object]] = [
        prepare_state_topics(kafka, states, settings.state.tombstones_h, timeout_s, may_grow),
        prepare_redelivery_topics(kafka, back, kept_h, timeout_s),
        prepare_admin_topics(kafka, timeout_s),
    ]
    if scheduled is not None:
        made.append(
            prepare_redelivery_topics(
                kafka, {scheduled: len(WAITS_S)}, kept_h + LONGEST_H, timeout_s
            )
        )
    for error in await asyncio.gather(*made, return_exceptions=True):  # all end before a raise
        if isinstance(error, BaseException):
            raise error
    await check_compacted(kafka, states, timeout_s)


async def retired_retry_topics(
    settings: Settings, stages: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Find the group's retry topics that no handler uses any more, by source, with partitions.

    Earlier code or settings had more retry topics than the present *stages* of a source. Events in
    a retired one still need their attempt. Raises UnavailableError.
    """
    group = settings.kafka.consumer_config.group_id

    def is_retired(source: str, name: str) -> bool:
        return retry_number(source, group, name) > stages[source]

    timeout_s = settings.worker.startup_timeout_s
    there = await topics_like(
        settings.kafka, lambda name: any(is_retired(s, name) for s in stages), timeout_s
    )
    found = {
        s: {name: count for name, count in there.items() if is_retired(s, name)} for s in stages
    }
    return {
        source: dict(sorted(of.items(), key=lambda item: retry_number(source, group, item[0])))
        for source, of in found.items()
    }


async def readable_retired(
    settings: Settings, retired: Mapping[str, Mapping[str, int]], sources: Mapping[str, int]
) -> dict[str, list[str]]:
    """Return those of the *retired* topics that are to be read, by source, and log them.

    An empty topic with more partitions than its source (*sources* has the counts) is left out.
    Raises UnavailableError.
    """
    kafka, timeout_s = settings.kafka, settings.worker.startup_timeout_s
    names = [name for of in retired.values() for name in of]
    if not names:
        return {}
    waiting = await unread(kafka, names, timeout_s)
    log.warning(
        "retry topics that no handler sends to any more are read on; `faust -A app doctor` "
        "says when they may "
        "be deleted",
        waiting=waiting,
    )
    return {
        source: [name for name, count in of.items() if count <= sources[source] or waiting[name]]
        for source, of in retired.items()
    }


async def grow_own_topics(
    settings: Settings, states: Mapping[str, int], back: Mapping[str, int]
) -> None:
    """Raise *states* and redelivery topics (*back*) to these partition counts, in a running worker.

    A redelivery topic that was deleted is created again. Raises OperatingError.
    """
    kafka, timeout_s = settings.kafka, settings.worker.startup_timeout_s
    await prepare_state_topics(kafka, states, settings.state.tombstones_h, timeout_s, states)
    await prepare_redelivery_topics(kafka, back, settings.dead_letter.retention_h, timeout_s)
