"""The route `/concurrency/`: limits of events in flight, and their change at run time.

    GET  /concurrency/  the worker's (topic null) and that of a partition of each topic: now, by the
                        settings, and who changed it
    POST /concurrency/  `{"topic": "order-events", "concurrency": 5, "note": "why"}`; the topic `*`
                        is each worker

A concurrency of null restores that of the settings. The note is optional. Both answers show the
values in effect.
"""

import msgspec
from faust.web import Request, Response

from famulus.control.admin_topic import set_width, target_of
from famulus.control.concurrency import WIDTH_MAX, WORKER
from famulus.errors import BadRequestError, OperatingError
from famulus.web.json_view import JsonView, actor_of


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    topic: str
    concurrency: int | None
    note: str = ""


class Concurrency(JsonView):
    """Concurrency limits: events that may be in flight."""

    async def get(self, request: Request) -> Response:
        """List it."""
        del request
        return self.answer(self._rows())

    async def post(self, request: Request) -> Response:
        """Change it, on every worker of the group."""
        host = self.host
        topics = {name: s.topic_name for name, s in host.subscriptions.items()}
        try:
            asked = await self.asked(request, Asked)
            if asked.concurrency is not None and not 1 <= asked.concurrency <= WIDTH_MAX:
                return self.refuse(400, f"concurrency is a number from 1 to {WIDTH_MAX}, or null")
            timeout_s = host.settings.worker.startup_timeout_s
            target = await target_of(host.settings.kafka, topics, asked.topic, None, timeout_s)
            next_offset = await set_width(
                host.sender,
                host.group,
                target.topic or WORKER,
                concurrency=asked.concurrency,
                by=actor_of(request),
                why=asked.note,
            )
        except (BadRequestError, OperatingError) as error:
            return self.failed(error)
        await host.admin_log.seen(next_offset)
        return self.answer(self._rows())

    def _rows(self) -> list[dict[str, object]]:
        assigned, worker = self.host.assigned, self.host.settings.worker
        usual = {WORKER: worker.concurrency}
        usual |= {
            s.topic_name: assigned.default_concurrency for s in self.host.subscriptions.values()
        }
        set_by = {
            row["topic"] or WORKER: row
            for row in assigned.control_state.concurrency_overrides.rows()
        }
        none = {"by": None, "at": None, "note": ""}
        return [
            {
                **none,
                **set_by.get(topic, {}),
                "topic": None if topic == WORKER else topic,
                "concurrency": assigned.control_state.concurrency_overrides.get(topic, count),
                "settings": count,
            }
            for topic, count in usual.items()
        ]
