"""Base of the console's pages: frame, access, and errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast

from aiohttp import web
from faust.web import Request, Response, View

from famulus.application import Famulus
from famulus.inspection.deadletters.reader import Reader, reading
from famulus.web.console.rendering import POLICY, render
from famulus.web.route_docs import HTML, RouteDocs
from famulus.webserver.auth import may_act

# Of the logs for one page, in the process of a worker that has other things to do.
READ_RECORDS_MAX = 50_000
_turn = asyncio.Lock()


class HtmlPage(View):
    """A page of the console; *path* is its place in the menu.

    A page with *is_live* renews itself, see `console.stream`.
    """

    about: ClassVar[RouteDocs] = RouteDocs((HTML,))
    path: ClassVar[str]
    is_live: ClassVar[bool] = False

    @property
    def host(self) -> Famulus:
        """The app that this page belongs to."""
        return cast(Famulus, self.app)

    def show(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """Return the page that *template* makes of *values*."""
        page = render(
            template,
            path=self.path,
            is_live=self.is_live,
            group=self.host.group,
            csrf=cast(Any, request).get("csrf", ""),
            may_act=may_act(request),
            **values,
        )
        return self.html(page, status=status, headers={"Content-Security-Policy": POLICY})

    def refuse(self, request: Request, status: int, why: str) -> Response:
        """Return a page with one line that names the error."""
        return self.show(request, "said.html", status, title="Not done", lines=[why], is_bad=True)


def see_other(path: str) -> Response:
    """Send the browser to *path*, where the effect of an action can be seen."""
    return cast(Response, web.Response(status=303, headers={"Location": path}))


class LivePage(HtmlPage):
    """A page that renews itself: *template* shows what `values` looks up."""

    is_live = True
    template: ClassVar[str]

    @staticmethod
    def values(app: Famulus) -> dict[str, Any]:  # Any: what the template shows
        """Return the values of the page as they are now."""
        raise NotImplementedError

    async def get(self, request: Request) -> Response:
        """Show it."""
        return self.show(request, self.template, **self.values(self.host))


@asynccontextmanager
async def reading_logs(app: Famulus) -> AsyncIterator[Reader]:
    """Read logs of the cluster for one page at a time, however many are requested.

    Errors of the cluster become UnavailableError.
    """
    async with _turn, reading(app) as reader:
        yield reader
