"""Every route of the web server, in one table: a new view is one line here."""

from typing import NamedTuple

from faust.web import View

from famulus.application import Famulus
from famulus.web.api.concurrency import Concurrency
from famulus.web.api.drain import Drain
from famulus.web.api.health import Live, Ready, Started
from famulus.web.api.hot_keys import HotKeyList
from famulus.web.api.lag import GroupLagView
from famulus.web.api.openapi import Description
from famulus.web.api.pause import Paused
from famulus.web.api.seek import Seek
from famulus.web.api.tables import (
    DuplicateList,
    Metrics,
    SubscriptionList,
    TableList,
    TableRow,
    TableRows,
)
from famulus.web.console.actions import DropPage, PausePage, RedrivePage, ResumePage
from famulus.web.console.dead_letters import CausesPage, LetterPage, ListPage
from famulus.web.console.explain import ExplainPage
from famulus.web.console.hot_keys import HotKeysPage
from famulus.web.console.login import Login, Logout
from famulus.web.console.pages import (
    Overview,
    RowsPage,
    Script,
    SettingsPage,
    Style,
    Subscriptions,
    TablesPage,
    WorkersPage,
)
from famulus.web.console.stream import Events, note_history
from famulus.web.otel_export import start_metering


class Route(NamedTuple):
    """A path of the web server and the view that answers there."""

    path: str
    view: type[View]


ROUTES = (
    Route("/startupz", Started),
    Route("/readyz", Ready),
    Route("/livez", Live),
    Route("/metrics", Metrics),
    Route("/openapi.json", Description),
    Route("/login", Login),
    Route("/logout", Logout),
    Route("/tables/", TableList),
    Route("/tables/{name}/", TableRows),
    Route("/tables/{name}/{key}/", TableRow),
    Route("/subscriptions/", SubscriptionList),
    Route("/subscriptions/{topic}/duplicates/", DuplicateList),
    Route("/lag/", GroupLagView),
    Route("/hotkeys/", HotKeyList),
    Route("/paused/", Paused),
    Route("/seek/", Seek),
    Route("/concurrency/", Concurrency),
    Route("/drain/", Drain),
    Route("/console", Overview),
    Route("/console/subscriptions", Subscriptions),
    Route("/console/tables", TablesPage),
    Route("/console/tables/{name}", RowsPage),
    Route("/console/hot-keys", HotKeysPage),
    Route("/console/explain", ExplainPage),
    Route("/console/dead-letters", CausesPage),
    Route("/console/dead-letters/list", ListPage),
    Route("/console/dead-letters/letter", LetterPage),
    Route("/console/redrive", RedrivePage),
    Route("/console/drop", DropPage),
    Route("/console/pause", PausePage),
    Route("/console/resume", ResumePage),
    Route("/console/settings", SettingsPage),
    Route("/console/workers", WorkersPage),
    Route("/console/events", Events),
    Route("/console/style.css", Style),
    Route("/console/console.js", Script),
)


def register(app: Famulus) -> None:
    """Add every route to *app*'s web server, the charts' history, and OpenTelemetry's metrics."""
    for route in ROUTES:
        app.page(route.path)(route.view)

    async def console_history() -> None:
        await note_history(app)

    app.task(console_history)
    app.exports.append(lambda: start_metering(app))
