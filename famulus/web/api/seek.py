"""The route `/seek/`: seek the running group, and list the seeks that are still pending.

    GET  /seek/  the pending seeks: topic, partition, offset, by whom, when, why
    POST /seek/  `{"topic": "order-events", "partition": 3, "offset": 1042, "note": "why"}`

Instead of an offset, which needs a partition, a seek may have `"time":
"2026-01-31T12:00:00+00:00"`, or `"edge": "beginning"` or `"end"`. The topic `*` is every topic;
partition and note are optional. With `"dry_run": true` nothing is changed. The answer has for each
partition its log, the commit, the new offset, and how many records are read again or skipped;
`notes` sums that up.
"""

from typing import Literal

import msgspec
from faust.web import Request, Response

from famulus.control.admin_topic import target_of
from famulus.control.seek_planner import PlannedSeek, consequences, order, planned, seek_target
from famulus.errors import BadRequestError, OperatingError
from famulus.web.json_view import JsonView, actor_of
from famulus.wiring import remembers_s


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    topic: str
    partition: int | None = None
    edge: Literal["beginning", "end"] | None = None
    offset: int | None = None
    time: str | None = None
    note: str = ""
    dry_run: bool = False


class Seek(JsonView):
    """Where the group is to go on."""

    async def get(self, request: Request) -> Response:
        """List what waits."""
        del request
        return self.answer(self.host.assigned.control_state.seeks.rows())

    async def post(self, request: Request) -> Response:
        """Order it."""
        host = self.host
        try:
            asked = await self.asked(request, Asked)
            moves = await self._moves(asked)
            if not asked.dry_run:
                await host.admin_log.seen(
                    await order(host.sender, host.group, moves, actor_of(request), asked.note)
                )
        except (BadRequestError, ValueError, OperatingError) as error:
            return self.failed(error)
        notes = consequences(moves, remembers_s(host.subscriptions.values()))
        return self.answer({"partitions": [move.as_json() for move in moves], "notes": notes})

    async def _moves(self, asked: Asked) -> list[PlannedSeek]:
        host = self.host
        where = seek_target(edge=asked.edge, offset=asked.offset, time=asked.time)
        topics = {name: s.topic_name for name, s in host.subscriptions.items()}
        kafka, timeout_s = host.settings.kafka, host.settings.worker.startup_timeout_s
        target = await target_of(kafka, topics, asked.topic, asked.partition, timeout_s)
        return await planned(kafka, topics.values(), target, where, timeout_s)
