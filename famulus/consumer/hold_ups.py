"""Counting an event among the tried whose handling cost this worker its place in the group.

A handler that waits without `await`, or keeps the interpreter, stops everything: nobody fetches,
nobody answers the group, and others get the partitions. What the handler did is discarded then, and
the event is another worker's next one, which it throws out, too. So whoever comes back says which
event it was, where the next owner looks: in the admin topic, since the state is another worker's by
then.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import Context
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec
import structlog
from faust.types import TP

from famulus.control.admin_topic import now_text
from famulus.control.hold_ups import HoldUp, HoldUpId, HoldUps
from famulus.control.pauses import admin_topic
from famulus.errors import OperatingError
from famulus.processing.deferral import stage_of
from famulus.processing.partition_processor import PartitionProcessor
from famulus.processing.pipeline import WorkItem
from famulus.producer.producer import Producer
from famulus.serialization.records import ProducerRecord

log = structlog.get_logger()
# Of events in retry topics and redriven ones, whose place says nothing of how far the group is.
KEPT_D = 7


class HoldUpNotes:
    """Notes among *holdups* what held this worker up, and has *sender* tell *group*.

    *has_place* says whether the group counts on this worker now.
    """

    def __init__(
        self, holdups: HoldUps, sender: Producer, group: str, has_place: Callable[[], bool]
    ) -> None:
        self._holdups, self._sender, self._topic, self._has_place = (
            holdups,
            sender,
            admin_topic(group),
            has_place,
        )
        self._thawed_s = 0.0  # when this process was last told to go on
        self._telling: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Know from now on when this process was frozen: no event is to blame for that."""

        def note(*_: object) -> None:
            self._thawed_s = time.monotonic()

        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCONT, note)

    def note(
        self, processor: PartitionProcessor, work: WorkItem, seconds: float, *, is_sure: bool
    ) -> None:
        """Note an event that has held the event loop for so long, if that cost the worker its place.

        Where it is not sure which one of some it was, the next owner of the partition looks more
        closely.
        """
        tp, offset = processor.tp, work[1].offset
        if self._has_place() or self._thawed_s > time.monotonic() - seconds:
            return
        log.error(
            "an event, or where it is not sure one shortly before it, held the event loop "
            "until this worker lost "
            "its place in the group",
            topic=tp.topic,
            partition=tp.partition,
            offset=offset,
            held_s=round(seconds, 1),
            is_sure=is_sure,
        )
        name = HoldUpId(tp.topic, tp.partition, offset, uuid4().hex[:12])
        holdup = HoldUp(
            round(seconds, 1), socket.gethostname(), now_text(), stage_of(work[2]), is_sure
        )
        self._holdups.note(name, holdup)
        self._tell({name: holdup})

    def tidy(self, begins: Mapping[TP, int]) -> None:
        """Forget what counts no more of partitions that are read from *begins* on."""
        oldest = (datetime.now(UTC) - timedelta(days=KEPT_D)).isoformat()
        names = [
            name for tp, begin in begins.items() for name in self._holdups.done(*tp, begin, oldest)
        ]
        self._holdups.forget(names)
        if names:
            self._tell(dict.fromkeys(names))

    def _tell(self, what: Mapping[HoldUpId, HoldUp | None]) -> None:
        records = [
            ProducerRecord(
                self._topic,
                str(name).encode(),
                None if of is None else msgspec.json.encode(of),
                partition=0,
            )
            for name, of in what.items()
        ]
        telling = asyncio.get_running_loop().create_task(
            self._send(records), name="holdups", context=Context()
        )
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _send(self, records: Iterable[ProducerRecord]) -> None:
        try:
            await self._sender.send_together(list(records))
        except OperatingError as error:
            log.warning("the group is not told which event held this worker up", why=str(error))
