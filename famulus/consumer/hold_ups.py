"""Reports of events that blocked the event loop until the worker lost its group membership.

A handler that waits without `await`, or keeps the interpreter, stops everything: the worker does
not fetch and sends no heartbeats, and other workers get its partitions. The handler's effects are
then discarded, and the event makes the next owner lose its membership as well. This worker
therefore writes the position of the event to the admin topic, where the next owner looks. The state
is no place for it, because another worker owns that by then.
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
# Days for which any report is kept. Reports of retried and redriven events end only this way: their
# offset in the source is below the group's position anyway.
KEPT_D = 7


class HoldUpNotes:
    """Adds hold-ups of this worker to *holdups* and reports them to *group* with *sender*.

    *has_place* returns whether the group still counts on this worker.
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
        self._thawed_s = 0.0  # when this process last received SIGCONT
        self._telling: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Watch for SIGCONT, which ends a time in which the process was frozen.

        No event is to blame for that time. Does nothing outside of the main thread.
        """

        def note(*_: object) -> None:
            self._thawed_s = time.monotonic()

        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGCONT, note)

    def note(
        self, processor: PartitionProcessor, work: WorkItem, seconds: float, *, is_sure: bool
    ) -> None:
        """Report an event that held the event loop until this worker lost its membership.

        *seconds* is for how long. When *is_sure* is False, it may have been an earlier event; the
        next owner of the partition then times each event. Does nothing while the worker is still a
        member, or when the process was frozen meanwhile.
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
        """Delete reports that no longer apply; *begins* has the start offset of each partition."""
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
