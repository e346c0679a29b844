"""The route `/drain/`: have this worker leave its group and end.

    POST /drain/  `{"note": "why"}`, answered with 202 at once

The worker ends as after SIGTERM: it commits the events in flight and exits with 0.
"""

import asyncio
import signal

import msgspec
import structlog
from faust.web import Request, Response

from famulus.control.admin_topic import note_drain
from famulus.errors import BadRequestError, OperatingError
from famulus.state.changelog_topic import worker_name
from famulus.web.json_view import JsonView, actor_of

log = structlog.get_logger()
ANSWER_S = 0.2  # so that whoever asked has the answer before the web server goes


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    note: str


class Drain(JsonView):
    """The end of this worker."""

    async def post(self, request: Request) -> Response:
        """Begin it; asking again changes nothing."""
        try:
            asked = await self.asked(request, Asked)
        except BadRequestError as error:
            return self.refuse(400, str(error))
        host = self.host
        if not host.is_draining:
            by = actor_of(request)
            try:
                await note_drain(host.sender, host.group, worker_name(), by, asked.note)
            except OperatingError as error:
                return self.refuse(503, str(error))
            self._begin(by)
        return self.answer({"worker": worker_name(), "status": "draining"}, 202)

    def _begin(self, by: str) -> None:
        # By somebody else, meanwhile: a second signal would end it at once.
        if self.host.is_draining:
            return
        self.host.is_draining = True
        log.warning("the worker drains and ends", asked_by=by)
        asyncio.get_running_loop().call_later(ANSWER_S, signal.raise_signal, signal.SIGTERM)
