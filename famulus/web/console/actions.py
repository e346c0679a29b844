"""Console actions, each behind a page that asks for confirmation; the same as the commands.

    GET, POST /console/redrive, /console/drop  ?topic= with &cause= or &origin=, and &until= (ms)
    GET, POST /console/pause, /console/resume  ?topic= (`*` is everything), and &partition=

GET asks, POST acts, with the same fields in the form, a `note`, and the session's `csrf`. Both need
the admin token: `webserver.auth` checks POST. The actor in the audit topic is `web@ADDRESS`.
"""

import time
from typing import Any, ClassVar, cast

from faust.web import Request, Response

from famulus.application import Famulus
from famulus.control.pauses import EVERYTHING, Action, PauseScope, said
from famulus.deadletter.dead_letter import Done, Origin
from famulus.deadletter.index import PAST, Criteria, DeadLetterIndex, Entry, Plan
from famulus.deadletter.masking import truncate
from famulus.errors import OperatingError
from famulus.formatting import number
from famulus.inspection.changelog_reader import subscription_of
from famulus.inspection.deadletters.causes import grouped
from famulus.inspection.deadletters.description import otherwise, why
from famulus.inspection.deadletters.plan import RATE, plan_of
from famulus.inspection.deadletters.reader import Reader, register_of
from famulus.inspection.deadletters.redrive import RedriveJob
from famulus.inspection.deadletters.redrive import Request as Deed
from famulus.processing.subscription import Subscription
from famulus.web.api.pause import meant, set_pause
from famulus.web.console.html_page import READ_RECORDS_MAX, HtmlPage, reading_logs, see_other
from famulus.web.json_view import INT32_MAX, INT64_MAX, actor_of, status_of, whole
from famulus.web.route_docs import HTML, RouteDocs, texts
from famulus.webserver.auth import form_field, may_act

LETTERS_MAX = 2_000  # of one POST: at the usual rate they are sent well within a request's time
STAYS_SHOWN = 20
NOTE_BYTES_MAX = 2_000
Fields = dict[str, str]


class ConfirmedAction(HtmlPage):
    """A page that asks, and does.

    *fields* are those of its form besides the note; *title* is what it is about.
    """

    fields: ClassVar[tuple[str, ...]]

    async def get(self, request: Request) -> Response:
        """Show the page that asks for confirmation."""
        if not may_act(request):
            return self.refuse(
                request, 403, "This session may look. Log in with the token for acting."
            )
        asked = {name: request.query.get(name, "") for name in self.fields}
        try:
            return self.show(request, "confirm.html", **await self.question(asked))
        except ValueError as error:
            return self.refuse(request, 400, str(error))
        except OperatingError as error:
            return self.refuse(request, status_of(error), str(error))

    async def post(self, request: Request) -> Response:
        """Do it."""
        form = cast(Any, request)  # Any: aiohttp's request, which Faust's type knows little of
        asked = {name: await form_field(form, name) for name in (*self.fields, "note")}
        try:
            return await self.done(request, asked)
        except ValueError as error:
            return self.refuse(request, 400, str(error))
        except OperatingError as error:
            return self.refuse(request, status_of(error), str(error))

    async def question(self, asked: Fields) -> dict[str, Any]:  # Any: what the template shows
        """Return the values of the page that asks for confirmation.

        Raises ValueError for a request that makes no sense, and OperatingError.
        """
        raise NotImplementedError

    async def done(self, request: Request, asked: Fields) -> Response:
        """Do it, and what is to be seen then. Raises as `question` does."""
        raise NotImplementedError


class LettersAct(ConfirmedAction):
    """Dead letters of one cause, or one of them, redriven or dropped as *action* says."""

    path = "/console/dead-letters"
    fields = ("topic", "cause", "origin", "until")
    about = RouteDocs((HTML,), query=texts(*fields), form=texts(*fields, "note", "csrf"))
    action: ClassVar[Done]

    async def question(self, asked: Fields) -> dict[str, Any]:  # Any: as above
        """Return the dead letters that would be affected; failures after now are excluded."""
        asked = {**asked, "until": str(time.time_ns() // 1_000_000)}
        subscription, criteria = letters_meant(self.host, asked)
        async with reading_logs(self.host) as reader:
            register, plan = await self._plan(reader, subscription, criteria)
        count = number(len(plan.chosen), "dead letter")
        where = f"to group {self.host.group}" if self.action == "redrive" else "from the list"
        groups = grouped(plan.chosen, register.messages)
        return {
            "title": f"{self.action.capitalize()} {count} {where}?"
            if plan.chosen
            else f"No letter to {self.action}",
            "lines": [
                *(
                    f"{group.count:,} of cause {group.cause.id}: {why(group.cause)}"
                    for group in groups
                ),
                *otherwise(plan),
                *_rest(plan),
            ],
            "asked": {name: value for name, value in asked.items() if value},
            "does": self.action.capitalize() if plan.chosen else "",
        }

    async def done(self, request: Request, asked: Fields) -> Response:
        """Send them, and say what became of them."""
        subscription, criteria = letters_meant(self.host, asked)
        stays: list[str] = []

        def tell(entry: Entry, staying: str) -> None:
            if staying:
                stays.append(f"{entry.id.origin} stays: {staying}")

        async with reading_logs(self.host) as reader:
            _, plan = await self._plan(reader, subscription, criteria)
            deed = Deed(self.action, RATE, truncate(asked["note"], NOTE_BYTES_MAX))
            sending = RedriveJob(self.host, reader, subscription, deed, actor_of(request))
            if plan.chosen:
                await sending.run(plan, tell)
        more = [f"{len(stays) - STAYS_SHOWN:,} more stay"] if len(stays) > STAYS_SHOWN else []
        lines = [*stays[:STAYS_SHOWN], *more, *otherwise(plan), *_rest(plan)]
        title = f"{number(sending.sent, 'letter')} {PAST[self.action]}"
        return self.show(request, "said.html", title=title, lines=lines, is_bad=bool(stays))

    async def _plan(
        self, reader: Reader, subscription: Subscription, criteria: Criteria
    ) -> tuple[DeadLetterIndex, Plan]:
        register = await register_of(
            self.host, reader, subscription, criteria, records_max=READ_RECORDS_MAX
        )
        return register, plan_of(subscription, register, self.action, limit=LETTERS_MAX)


class RedrivePage(LettersAct):
    """Redrive dead letters to the group in which they failed."""

    action = "redrive"


class DropPage(LettersAct):
    """Drop dead letters."""

    action = "drop"


class PauseAct(ConfirmedAction):
    """A topic, one partition of it or everything, paused or resumed as *action* says."""

    path = "/console/subscriptions"
    fields = ("topic", "partition")
    about = RouteDocs((HTML,), query=texts(*fields), form=texts(*fields, "note", "csrf"))
    action: ClassVar[Action]

    async def question(self, asked: Fields) -> dict[str, Any]:  # Any: as above
        """Return the partitions that would be affected."""
        target = await target_meant(self.host, asked)
        lines = [
            (
                "Nothing more of it is started, on any worker of the group, until it is resumed. "
                "What is in hand ends."
            )
        ]
        if self.action == "resume":
            pauses = self.host.assigned.pauses
            lines = [said(paused, pauses.of[paused]) for paused in pauses.lifted(target)]
        name = "everything" if target == PauseScope() else str(target)
        title = f"{self.action.capitalize()} {name}?" if lines else f"Nothing of {name} is paused"
        return {
            "title": title,
            "lines": lines,
            "does": self.action.capitalize() if lines else "",
            "asked": {name: value for name, value in asked.items() if value},
        }

    async def done(self, request: Request, asked: Fields) -> Response:
        """Do it; the partitions show it."""
        target = await target_meant(self.host, asked)
        await set_pause(self.host, self.action, target, actor_of(request), asked["note"])
        return see_other(self.path)


class PausePage(PauseAct):
    """Start nothing more of it."""

    action = "pause"


class ResumePage(PauseAct):
    """Let it go on."""

    action = "resume"


def letters_meant(app: Famulus, asked: Fields) -> tuple[Subscription, Criteria]:
    """Return the subscription and the criteria that a request names.

    Raises ValueError when they are missing or contradictory, ConfigError for a topic without a
    subscription.
    """
    until = asked["until"]
    until_ms = whole(until, "until", 0, INT64_MAX) if until else None
    if not asked["topic"] or bool(asked["cause"]) == bool(asked["origin"]):
        raise ValueError(
            "Say which letters: a topic, with a cause, or with the origin of one of them."
        )
    subscription = subscription_of(app, asked["topic"])
    if asked["origin"]:
        origin = Origin.of(asked["origin"])._replace(topic=subscription.topic_name)
        return subscription, Criteria(origin=origin)  # whenever it failed: it was named
    return subscription, Criteria(cause=asked["cause"], until_ms=until_ms)


async def target_meant(app: Famulus, asked: Fields) -> PauseScope:
    """Return the scope that a request names.

    Raises ValueError when it is missing, ConfigError when there is no such topic or partition,
    UnavailableError without a broker.
    """
    if not asked["topic"]:
        raise ValueError(
            f"Say what: a topic, or {EVERYTHING} for everything; a partition is a number."
        )
    partition = (
        whole(asked["partition"], "a partition", 0, INT32_MAX) if asked["partition"] else None
    )
    return await meant(app, asked["topic"], partition)


def _rest(plan: Plan) -> list[str]:
    """Says so when there may be more than are done at once."""
    return (
        ["These are as many as are done at once: ask again for the rest."]
        if len(plan.chosen) >= LETTERS_MAX
        else []
    )
