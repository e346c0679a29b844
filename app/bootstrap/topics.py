"""The topics that only one group uses, made when its worker starts."""

import asyncio
from collections.abc import Awaitable, Mapping

from app.config import Settings
from app.observe.health import prepare_state_topics, prepare_topics_back
from app.operate.admin import prepare_admin_topics
from app.publish.schedule import LONGEST_H, WAITS_S


async def make_own_topics(
    settings: Settings, states: Mapping[str, int], back: Mapping[str, int], scheduled: str | None
) -> None:
    """Make the changelogs of *states*, the topics through which records come *back*, each with its partitions.

    Also the operators' topic, and the one where events are *scheduled*, if there is one. All at once, since each takes
    some round trips. Raises OperatingError.
    """
    kafka, timeout_s = settings.kafka, settings.worker.startup_timeout_s
    kept_h = settings.dead_letter.retention_h
    made: list[Awaitable[object]] = [
        prepare_state_topics(kafka, states, settings.state.tombstones_h, timeout_s),
        prepare_topics_back(kafka, back, kept_h, timeout_s),
        prepare_admin_topics(kafka, timeout_s),
    ]
    if scheduled is not None:
        made.append(prepare_topics_back(kafka, {scheduled: len(WAITS_S)}, kept_h + LONGEST_H, timeout_s))
    for error in await asyncio.gather(*made, return_exceptions=True):  # all end before one is told
        if isinstance(error, BaseException):
            raise error
