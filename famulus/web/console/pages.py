"""The console: the state of a worker for people. One page answers one question.

    GET /console                present work, and what is stuck and why; it renews itself
    GET /console/subscriptions  state of each partition; it renews itself, see `console.stream`
    GET /console/tables         the tables; /console/tables/NAME?after=KEY or ?key=KEY has rows
    GET /console/dead-letters   dead letters by cause, one by one, and each in full
    GET /console/explain        the position of an event, the reason, and the next step
    GET /console/settings       every setting as the worker started with it, secrets as stars
    GET /console/workers        the members of the group, and their partitions

Nothing in this module acts; `console.actions` does. `webserver.auth` asks for the read token, or
for a session that began at `/login`.
"""

import asyncio
from collections import defaultdict
from typing import Any

from faust.web import Request, Response, View

from famulus.application import Famulus
from famulus.control.pauses import Pauses, said
from famulus.errors import OperatingError, UnreadableRowError
from famulus.state.tables import Table
from famulus.web.console.explain import query_of
from famulus.web.console.html_page import HtmlPage, LivePage
from famulus.web.console.rendering import static
from famulus.web.route_docs import HTML, RouteDocs
from famulus.web.settings_list import shown
from famulus.web.worker_status import (
    PartitionNow,
    as_json,
    overview_of,
    partitions_of,
    rows_of,
    tables_of,
    workers_of,
)

PAGE_ROWS = 50
Values = dict[str, Any]  # Any: what a template shows


class Overview(LivePage):
    """Present work of the worker, and stuck partitions."""

    path = "/console"
    template = "overview.html"

    @staticmethod
    def values(app: Famulus) -> Values:
        """Everything about this worker as a whole."""
        return {**overview_of(app), "charts": app.history.charts()}


class Subscriptions(LivePage):
    """State of each partition."""

    path = "/console/subscriptions"
    template = "subscriptions.html"

    @staticmethod
    def values(app: Famulus) -> Values:
        """Return the partitions by topic."""
        of_topic: defaultdict[str, list[PartitionNow]] = defaultdict(list)
        for now in sorted(partitions_of(app), key=lambda now: now.place):
            of_topic[now.place.topic].append(now)
        every = app.subscriptions.values()
        found = [(s.topic_name, s.counts, of_topic[s.topic_name]) for s in every]
        return {"subscriptions": found, "pauses": pauses_of(app.assigned.pauses)}


class TablesPage(HtmlPage):
    """List of the tables."""

    path = "/console/tables"

    async def get(self, request: Request) -> Response:
        """Show them."""
        return self.show(request, "tables.html", tables=list(tables_of(self.host).values()))


class RowsPage(HtmlPage):
    """The rows of a table, a page at a time, or the one of a key."""

    about = RouteDocs((HTML,), query={"after": {"type": "string"}, "key": {"type": "string"}})
    path = "/console/tables"

    async def get(self, request: Request, name: str) -> Response:
        """Show them."""
        table = tables_of(self.host).get(name)
        after, key = request.query.get("after"), request.query.get("key", "")
        values: Values = {
            "name": name,
            "key": key,
            "is_later": after is not None,
            "rows": [],
            "following": None,
            "partitions": [],
            "error": "",
        }
        if table is None:
            return self.show(
                request, "rows.html", 404, **values | {"error": "There is no such table."}
            )
        values["partitions"] = table.partitions
        try:
            values["rows"], values["following"] = chosen_rows(table, after, key)
        except ValueError as error:
            return self.show(request, "rows.html", 400, **values | {"error": error})
        if key and after is None and not values["rows"]:
            return self.show(
                request,
                "rows.html",
                404,
                **values | {"error": "No partition of this worker has that row."},
            )
        return self.show(request, "rows.html", **values)


class SettingsPage(HtmlPage):
    """Every setting, as the worker started with it."""

    path = "/console/settings"

    async def get(self, request: Request) -> Response:
        """Show them."""
        rows = [
            row._replace(value=row.value if isinstance(row.value, str) else text_of(row.value))
            for row in shown(self.host.settings)
        ]
        return self.show(request, "settings.html", settings=rows)


class WorkersPage(HtmlPage):
    """Members of the group. The only page that asks the cluster, one request at a time."""

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

    about = RouteDocs(("text/css",))

    async def get(self, request: Request) -> Response:
        """Send it."""
        del request
        return self.bytes(static("style.css"), content_type="text/css")


class Script(View):
    """The script that renews the pages."""

    about = RouteDocs(("text/javascript",))

    async def get(self, request: Request) -> Response:
        """Send it."""
        del request
        return self.bytes(static("console.js"), content_type="text/javascript")


def chosen_rows(
    table: Table[Any, Any], after: str | None, key: str
) -> tuple[list[tuple[str, str]], str | None]:
    """Return a page of rows as texts, and the `after` of the next page, see `rows_of`.

    The page has the row of *key*; without such a row, those whose keys begin with *key*; without a
    *key*, those behind *after*. Raises ValueError for a key that a table with windows cannot have.
    """
    try:
        if key and after is None and (value := _row(table, key)) is not None:
            return [(key, text_of(value))], None
    except UnreadableRowError as error:
        return [(key, str(error))], None
    begin = after or key
    rows, following = rows_of(table, table.position(begin) if begin else None, PAGE_ROWS)
    shown = [
        (row.text, f"cannot be read: {row.unreadable}" if row.unreadable else text_of(row.value))
        for row in rows
    ]
    found = [row for row in shown if row[0].startswith(key)]
    return found, following if len(found) == len(shown) else None


def _row(table: Table[Any, Any], key: str) -> Any:  # Any: a row's value
    """Return the row of *key*, None if there is none.

    A text that is only the beginning of a key has no row. Raises ValueError as above.
    """
    try:
        return table.at(key)
    except ValueError:
        if table.window is not None:
            raise
        return None


def text_of(value: object) -> str:
    """*value* as JSON, for people."""
    return as_json(value).decode()


def pauses_of(pauses: Pauses) -> list[tuple[str, str]]:
    """Return the group's pauses as texts, each with the query string of its resume page."""
    every = sorted(pauses.of.items(), key=lambda pause: str(pause[0]))
    return [(said(target, why), query_of(target)) for target, why in every]
