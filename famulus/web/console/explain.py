"""The page that explains an event: its position, the reason, and the next step.

    GET /console/explain  a form; with ?topic=&partition=&offset=, or ?topic=&key=, or ?topic=&id=
                          the answer

It shows what the command `explain` prints.
"""

from typing import NamedTuple
from urllib.parse import urlencode

from faust.web import Request, Response

from famulus.application import Famulus
from famulus.control.pauses import EVERYTHING, PauseScope
from famulus.errors import ConfigError, OperatingError, UnavailableError
from famulus.inspection.changelog_reader import subscription_of
from famulus.inspection.explain.answers import Answer, Facts
from famulus.inspection.explain.facts import ReadLimits
from famulus.inspection.explain.search import Question, explained
from famulus.web.console.html_page import READ_RECORDS_MAX, HtmlPage, reading_logs
from famulus.web.json_view import INT32_MAX, INT64_MAX, whole
from famulus.web.route_docs import HTML, RouteDocs, texts

FIELDS = ("topic", "partition", "offset", "key", "id")
# Of the latter little is kept.
REACH = ReadLimits(events=10_000, letters=READ_RECORDS_MAX, state=10 * READ_RECORDS_MAX)


class Told(NamedTuple):
    """The answer for one event; *link* leads to the next step, and *does* names it.

    Both are empty when there is none.
    """

    facts: Facts
    answer: Answer
    link: str
    does: str


class ExplainPage(HtmlPage):
    """The form, and the answer."""

    about = RouteDocs((HTML,), query=texts(*FIELDS))
    path = "/console/explain"

    async def get(self, request: Request) -> Response:
        """Answer what is asked."""
        asked = {name: request.query.get(name, "").strip() for name in FIELDS}
        topics = [s.topic_name for s in self.host.subscriptions.values()]
        found: list[Told] = []
        error, status = "", 200
        if any(asked.values()):
            try:
                found = await answers(self.host, question_of(self.host, asked))
            except (ConfigError, ValueError) as wrong:
                error, status = str(wrong), 400
            except OperatingError as wrong:
                error, status = str(wrong), 503 if isinstance(wrong, UnavailableError) else 404
        return self.show(
            request, "explain.html", status, asked=asked, topics=topics, found=found, error=error
        )


def query_of(target: PauseScope) -> str:
    """Return the query string by which a page that pauses or resumes names *target*."""
    fields = {"topic": target.topic or EVERYTHING, "partition": target.partition}
    return urlencode({name: value for name, value in fields.items() if value is not None})


def question_of(app: Famulus, asked: dict[str, str]) -> Question:
    """Parse the fields of the form.

    Raises ValueError when they do not ask for exactly one thing, ConfigError for an unknown topic.
    """
    place = asked["partition"], asked["offset"]
    if sum((any(place), bool(asked["key"]), bool(asked["id"]))) != 1 or any(place) != all(place):
        raise ValueError(
            "Name an event by its partition and its offset, or by its key, or by its id."
        )
    numbers = None
    if any(place):
        try:
            numbers = (
                whole(place[0], "a partition", 0, INT32_MAX),
                whole(place[1], "an offset", 0, INT64_MAX),
            )
        except ValueError:
            raise ValueError("A partition and an offset are whole numbers.") from None
    return Question(
        subscription_of(app, asked["topic"]), numbers, asked["key"] or None, asked["id"] or None
    )


async def answers(app: Famulus, question: Question) -> list[Told]:
    """Return the answers to *question*. Raises as `explained` does."""
    async with reading_logs(app) as reader:
        return [
            Told(facts, answer, *next_step(facts, answer))
            async for facts, answer in explained(app, reader, question, app.assigned.pauses, REACH)
        ]


def next_step(facts: Facts, answer: Answer) -> tuple[str, str]:
    """Return link and name of the next step; both are empty without a page for it."""
    if answer.state in {"dead letter", "parked"}:
        offset = (
            facts.offset
            if answer.state == "dead letter" or facts.dead_before is None
            else facts.dead_before
        )
        letter = {"topic": facts.topic, "origin": f"{facts.topic}/{facts.partition}/{offset}"}
        return f"/console/redrive?{urlencode(letter)}", "Redrive it"
    if answer.state == "paused" and facts.pause is not None:
        return f"/console/resume?{query_of(facts.pause[0])}", "Resume"
    if answer.state == "behind":
        place = {"topic": facts.topic, "partition": facts.partition, "offset": facts.before[0]}
        return f"/console/explain?{urlencode(place)}", "Explain the first of them"
    return "", ""
