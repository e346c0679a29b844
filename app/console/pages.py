"""The console: what a worker does, for people with a browser. One page answers one question.

    GET /console                what it does now, what is stuck and why; it renews itself
    GET /console/subscriptions  how each of its partitions fares
    GET /console/tables         the tables; /console/tables/NAME?after=KEY or ?key=KEY has their rows
    GET /console/dead-letters   what failed for good, by cause, and the commands that act on it
    GET /console/settings       every setting as the worker started with it, secrets as stars
    GET /console/workers        who is in the group, and who has which partition

Nothing here acts. `app.door.guard` asks for the token to look, or for a session that began at `/login`.
"""

import asyncio
from collections import defaultdict
from typing import Any, ClassVar, cast

from faust.web import Request, Response, View

from app.bootstrap import Famulus
from app.console.about import HTML, About
from app.console.gathering import (
    PartitionNow,
    as_json,
    bounded,
    overview_of,
    partitions_of,
    rows_of,
    tables_of,
    workers_of,
)
from app.console.rendering import POLICY, render, static
from app.console.settings import shown
from app.errors import OperatingError
from app.state.tables import Table

PAGE_ROWS = 50
Values = dict[str, Any]  # Any: what a template shows


class ConsolePage(View):
    """A page of the console: *path* is its place in the menu, *is_live* has it renew itself."""

    about: ClassVar[About] = About((HTML,))
    path: ClassVar[str]
    is_live: ClassVar[bool] = False

    @property
    def host(self) -> Famulus:
        """The app that this page belongs to."""
        return cast(Famulus, self.app)

    def show(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """The page that *template* makes of *values*."""
        page = render(
            template, path=self.path, is_live=self.is_live, group=self.host.group,
            csrf=cast(Any, request).get("csrf", ""), **values,
        )  # fmt: skip
        return self.html(page, status=status, headers={"Content-Security-Policy": POLICY})


class Overview(ConsolePage):
    """What the worker does now, and what is stuck."""

    path = "/console"
    is_live = True

    async def get(self, request: Request) -> Response:
        """Show it."""
        return self.show(request, "overview.html", **overview_of(self.host))


class Subscriptions(ConsolePage):
    """How each partition fares."""

    path = "/console/subscriptions"
    is_live = True

    async def get(self, request: Request) -> Response:
        """Show it."""
        of_topic: defaultdict[str, list[PartitionNow]] = defaultdict(list)
        for now in sorted(partitions_of(self.host), key=lambda now: now.place):
            of_topic[now.place.topic].append(now)
        every = self.host.subscriptions.values()
        found = [(s.topic_name, s.counts, of_topic[s.topic_name]) for s in every]
        return self.show(request, "subscriptions.html", subscriptions=found)


class TablesPage(ConsolePage):
    """Which tables there are."""

    path = "/console/tables"

    async def get(self, request: Request) -> Response:
        """Show them."""
        return self.show(request, "tables.html", tables=list(tables_of(self.host).values()))


class RowsPage(ConsolePage):
    """The rows of a table, a page at a time, or the one of a key."""

    about = About((HTML,), query={"after": {"type": "string"}, "key": {"type": "string"}})
    path = "/console/tables"

    async def get(self, request: Request, name: str) -> Response:
        """Show them."""
        table = tables_of(self.host).get(name)
        after, key = request.query.get("after"), request.query.get("key", "")
        values: Values = {
            "name": name, "key": key, "is_later": after is not None, "rows": [], "following": None, "partitions": [],
            "error": "",
        }  # fmt: skip
        if table is None:
            return self.show(request, "rows.html", 404, **values | {"error": "There is no such table."})
        values["partitions"] = table.partitions
        try:
            values["rows"], values["following"] = chosen_rows(table, after, key)
        except ValueError as error:
            return self.show(request, "rows.html", 400, **values | {"error": error})
        if key and not values["rows"]:
            return self.show(
                request, "rows.html", 404, **values | {"error": "No partition of this worker has that row."}
            )
        return self.show(request, "rows.html", **values)


class DeadLettersPage(ConsolePage):
    """What failed for good here, by cause."""

    path = "/console/dead-letters"

    async def get(self, request: Request) -> Response:
        """Show it."""
        found = [
            (s.name, self.host.dead_letter_topic(s), bounded(s.counts.failures).most_common())
            for s in self.host.subscriptions.values()
        ]
        return self.show(request, "deadletters.html", subscriptions=found)


class SettingsPage(ConsolePage):
    """Every setting, as the worker started with it."""

    path = "/console/settings"

    async def get(self, request: Request) -> Response:
        """Show them."""
        rows = [
            row._replace(value=row.value if isinstance(row.value, str) else text_of(row.value))
            for row in shown(self.host.settings)
        ]
        return self.show(request, "settings.html", settings=rows)


class WorkersPage(ConsolePage):
    """Who is in the group: the one page that asks the cluster, once at a time."""

    path = "/console/workers"
    _asking = asyncio.Lock()

    async def get(self, request: Request) -> Response:
        """Show them, or why the cluster does not say."""
        try:
            async with self._asking:
                workers = await workers_of(self.host)
        except OperatingError as error:
            why = f"The cluster does not say who is in the group: {error}"
            return self.show(request, "workers.html", 503, workers=[], error=why)
        return self.show(request, "workers.html", workers=workers, error="")


class Style(View):
    """The style sheet."""

    about = About(("text/css",))

    async def get(self, request: Request) -> Response:
        """Send it."""
        del request
        return self.bytes(static("style.css"), content_type="text/css")


class Script(View):
    """The script that renews the pages."""

    about = About(("text/javascript",))

    async def get(self, request: Request) -> Response:
        """Send it."""
        del request
        return self.bytes(static("console.js"), content_type="text/javascript")


def chosen_rows(table: Table[Any, Any], after: str | None, key: str) -> tuple[list[tuple[str, str]], str | None]:
    """The row of *key*, or a page of those above *after*, as texts; and what follows, see `rows_of`.

    Raises ValueError when one of them is no key of the table.
    """
    if key:
        value = table.at(key)
        return ([] if value is None else [(key, text_of(value))]), None
    rows, following = rows_of(table, after, PAGE_ROWS)
    return [(table.text(row_key), text_of(value)) for row_key, value in rows], following


def text_of(value: object) -> str:
    """*value* as JSON, for people."""
    return as_json(value).decode()


def add_console(app: Famulus) -> None:
    """Put the console onto *app*'s web server."""
    app.page("/console")(Overview)
    app.page("/console/subscriptions")(Subscriptions)
    app.page("/console/tables")(TablesPage)
    app.page("/console/tables/{name}")(RowsPage)
    app.page("/console/dead-letters")(DeadLettersPage)
    app.page("/console/settings")(SettingsPage)
    app.page("/console/workers")(WorkersPage)
    app.page("/console/style.css")(Style)
    app.page("/console/console.js")(Script)
