"""Pausing over the web: what the group's operators have paused, and how to pause and resume.

GET  /paused/  what is paused in the whole group: topic, partition (null for all of them), by whom, when, why
POST /paused/  `{"action": "pause", "topic": "order-events", "partition": 3, "note": "why"}`, or `resume`

The topic `*` is everything; partition and note may be left out. The answer to either is what is paused then.
"""

import msgspec
from faust.web import Request, Response

from app.bootstrap import Famulus
from app.console.views import BadRequestError, Page, asker
from app.errors import ConfigError, OperatingError, UnavailableError
from app.operate.admin import change, target_of
from app.operate.pauses import Action


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    action: Action
    topic: str
    partition: int | None = None
    note: str = ""


class Paused(Page):
    """What is paused in the group."""

    async def get(self, request: Request) -> Response:
        """List it."""
        del request
        return self.answer(self.host.intake.pauses.rows())

    async def post(self, request: Request) -> Response:
        """Pause or resume."""
        try:
            asked = await self.asked(request, Asked)
        except BadRequestError as error:
            return self.refuse(400, str(error))
        host = self.host
        topics = {name: s.topic_name for name, s in host.subscriptions.items()}
        timeout_s = host.settings.worker.startup_timeout_s
        try:
            target = await target_of(host.settings.kafka, topics, asked.topic, asked.partition, timeout_s)
            _, next_offset = await change(
                host.sender, host.group, host.intake.pauses, asked.action, target, asker(request), asked.note
            )
        except ConfigError as error:
            return self.refuse(404, str(error))
        except UnavailableError as error:
            return self.refuse(503, str(error))
        except OperatingError as error:
            return self.refuse(409, str(error))
        await host.admin_log.seen(next_offset)
        return self.answer(host.intake.pauses.rows())


def add_paused(app: Famulus) -> None:
    """Put the view of this module onto *app*'s web server."""
    app.page("/paused/")(Paused)
