"""Draining over the web: have this worker leave its group and end.

POST /drain/  `{"note": "why"}`: as SIGTERM does, it ends and commits what is in hand, and exits with 0; 202 at once
"""

import asyncio
import signal
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import structlog
from faust.web import Request, Response

from app.bootstrap import Famulus
from app.console.views import Page
from app.errors import OperatingError
from app.storage.log import WORKER
from app.worker.pauses import NOTE_MAX, Change, audit_record

log = structlog.get_logger()
ANSWER_S = 0.2  # so that whoever asked has the answer before the web server goes


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a request."""

    note: str


class Drain(Page):
    """The end of this worker."""

    async def post(self, request: Request) -> Response:
        """Begin it; asking again changes nothing."""
        try:
            asked = msgspec.json.decode(await request.read(), type=Asked)
        except msgspec.MsgspecError as error:
            return self.refuse(400, f"the body is no such request: {error}")
        host = self.host
        if not host.is_draining:
            by = f"web@{cast(Any, request).remote}"  # Any: aiohttp's request, which Faust's type knows little of
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            change = Change("drain", WORKER, by, now, asked.note[:NOTE_MAX])
            try:
                await host.sender.send(audit_record(host.group, change))
            except OperatingError as error:
                return self.refuse(503, str(error))
            self._begin(by)
        return self.answer({"worker": WORKER, "status": "draining"}, 202)

    def _begin(self, by: str) -> None:
        if self.host.is_draining:  # by somebody else, meanwhile: a second signal would end it at once
            return
        self.host.is_draining = True
        log.warning("the worker drains and ends", asked_by=by)
        asyncio.get_running_loop().call_later(ANSWER_S, signal.raise_signal, signal.SIGTERM)


def add_drain(app: Famulus) -> None:
    """Put the view of this module onto *app*'s web server."""
    app.page("/drain/")(Drain)
