"""Pausing over the web: what the group's operators have paused, and how to pause and resume.

GET  /paused/  what is paused in the whole group: topic, partition (null for all of them), by whom,
when, why POST /paused/  `{"action": "pause", "topic": "order-events", "partition": 3, "note":
"why"}`, or `resume`

The topic `*` is everything; partition and note may be left out. The answer to either is what is
paused then.
"""

import msgspec
from faust.web import Request, Response

from famulus.application import Famulus
from famulus.control.admin_topic import change, target_of
from famulus.control.pauses import Action, PauseScope
from famulus.errors import BadRequestError, OperatingError
from famulus.web.json_view import JsonView, actor_of


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    action: Action
    topic: str
    partition: int | None = None
    note: str = ""


class Paused(JsonView):
    """Pauses of the group."""

    async def get(self, request: Request) -> Response:
        """List it."""
        del request
        return self.answer(self.host.assigned.pauses.rows())

    async def post(self, request: Request) -> Response:
        """Pause or resume."""
        try:
            asked = await self.asked(request, Asked)
            target = await meant(self.host, asked.topic, asked.partition)
            await set_pause(self.host, asked.action, target, actor_of(request), asked.note)
        except (BadRequestError, OperatingError) as error:
            return self.failed(error)
        return self.answer(self.host.assigned.pauses.rows())


async def meant(app: Famulus, topic: str, partition: int | None) -> PauseScope:
    """Return the scope of a pause or resume.

    Raises ConfigError when there is no such topic or partition, UnavailableError without a broker.
    """
    topics = {name: s.topic_name for name, s in app.subscriptions.items()}
    return await target_of(
        app.settings.kafka, topics, topic, partition, app.settings.worker.startup_timeout_s
    )


async def set_pause(app: Famulus, action: Action, target: PauseScope, by: str, note: str) -> None:
    """Pause or resume, and wait until this worker knows it, for some seconds.

    Raises as `operate.admin.change` does.
    """
    _, next_offset = await change(
        app.sender, app.group, app.assigned.pauses, action=action, target=target, by=by, why=note
    )
    await app.admin_log.seen(next_offset)
