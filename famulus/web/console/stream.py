"""Live pages: one stream of server-sent events keeps each open page up to date.

    GET /console/events?page=/console  an event `{"main": HTML}` whenever the main part has changed

A stream ends after some seconds, before the server's time limit, and browsers connect again. The
end of its session, or of the worker, ends it at once. The number of streams is limited; a browser
without a stream loads the page again instead.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final, cast

from aiohttp import web
from faust.web import Request, Response

from famulus.application import Famulus
from famulus.observability.history import EVERY_S
from famulus.web.console.html_page import LivePage
from famulus.web.console.pages import Overview, Subscriptions
from famulus.web.console.rendering import fragment
from famulus.web.json_view import JsonView
from famulus.web.route_docs import JSON, RouteDocs
from famulus.web.worker_status import as_json, sample_of
from famulus.webserver.auth import HEADERS, REQUEST_S, may_act

STREAMS_MAX = 20
STREAM_S = REQUEST_S - 5
LOOK_S = 1.0  # between two looks
LIVE: Final[dict[str, type[LivePage]]] = {page.path: page for page in (Overview, Subscriptions)}


class Events(JsonView):
    """The streams of one worker."""

    about = RouteDocs(
        ("text/event-stream", JSON), query={"page": {"type": "string", "enum": list(LIVE)}}
    )

    def __post_init__(self) -> None:
        """None is open yet."""
        self._open = 0

    async def get(self, request: Request) -> Response:
        """Keep a page up to date for a while."""
        asked = cast(Any, request)  # Any: aiohttp's request, which Faust's type knows little of
        page = LIVE.get(request.query.get("page", ""))
        if "text/event-stream" not in asked.headers.get("Accept", ""):
            return self.refuse(406, "this is a stream: send the header `Accept: text/event-stream`")
        if page is None:
            return self.refuse(404, f"no such page renews itself; there are {', '.join(LIVE)}")
        if self._open >= STREAMS_MAX:
            return self.refuse(
                503, f"{STREAMS_MAX} pages are kept up to date already: ask for the page"
            )
        self._open += 1
        try:
            return cast(Response, await self._stream(asked, page))
        finally:
            self._open -= 1

    async def _stream(self, request: web.Request, page: type[LivePage]) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        # Whoever has left, or reads nothing, gets no more.
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(STREAM_S):
                await response.prepare(request)
                await self._tell(request, response, page)
        return response

    async def _tell(
        self, request: web.Request, response: web.StreamResponse, page: type[LivePage]
    ) -> None:
        said = ""
        door = self.host.door
        while (
            request.transport is not None
            and not self.host.should_stop
            and door.may_still_read(request)
        ):
            main = fragment(
                page.template, path=page.path, may_act=may_act(request), **page.values(self.host)
            )
            if main != said:
                await response.write(b"data: " + as_json({"main": main}) + b"\n\n")
                said = main
            await asyncio.sleep(LOOK_S)


async def note_history(app: Famulus) -> None:
    """Take a sample every few seconds, for the charts, until the worker stops."""
    while not app.should_stop:
        app.history.note(sample_of(app))
        await app.sleep(EVERY_S)
