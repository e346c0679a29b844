"""The web views: what the tables hold and how the subscriptions fare, as JSON.

    GET /tables/                        the tables
    GET /tables/NAME/?after=KEY&limit=N a page of rows, in the order of their keys' text
    GET /tables/NAME/KEY/               one row
    GET /subscriptions/                 what became of the records, and how far each partition is settled
    GET /subscriptions/TOPIC/duplicates/ the last records that were not handled, and what they are duplicates of
    GET, POST /paused/                  what of the group is paused; pause, resume: see `console.paused`
    GET, POST /seek/                    where the group is to go on: see `console.seek`
    GET, POST /concurrency/             how many events may be in hand at once: see `console.concurrency`
    POST /drain/                        end this worker: see `console.drain`
    GET /metrics                        all of it for Prometheus, see docs/metrics.md
    GET /readyz                         200, or 503 and how far the restoring of the state is, or what is stuck
    GET /livez                          200, or 503 and the events that are in hand for too long
    GET /startupz                       503 until the first assignment is restored, and why; 200 from then on

A worker answers for the partitions that it owns, and says which. It shows settled state only. `app.door.guard` says
who may look; the last three are open to all, and to those without a token they say no more than their status.
"""

from collections import Counter
from typing import Any, ClassVar, TypeVar, cast

import msgspec
from faust.web import Request, Response, View
from prometheus_client.exposition import choose_encoder

from app.bootstrap import Famulus
from app.console.about import JSON, OBJECT, ROWS, About
from app.console.gathering import as_json, failures_of, partitions_of, rows_of, tables_of, why_not_ready
from app.console.metrics import WorkerCollector
from app.door.guard import may_read
from app.errors import ConfigError, OperatingError, UnavailableError
from app.state.tables import Table

T = TypeVar("T")
PAGE_ROWS = 100
PAGE_ROWS_MAX = 10_000
HEALTH = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}


class BadRequestError(Exception):
    """What somebody sent is not what the view takes."""


def asker(request: Request) -> str:
    """Who asks, for what is written down of it."""
    return f"web@{cast(Any, request).remote}"  # Any: aiohttp's request, which Faust's type knows little of


class Page(View):
    """A view of ours: answers JSON, and says in one line what is wrong."""

    about: ClassVar[About] = About((JSON,))

    @property
    def host(self) -> Famulus:
        """The app that this view belongs to."""
        return cast(Famulus, self.app)

    def answer(self, value: object, status: int = 200) -> Response:
        """*value* as JSON."""
        return self.bytes(as_json(value), content_type="application/json", status=status)

    def refuse(self, status: int, why: str) -> Response:
        """An error in one line."""
        return self.answer({"error": why}, status)

    def failed(self, error: Exception) -> Response:
        """An error in one line, with the status that says what is wrong, see `status_of`."""
        return self.refuse(status_of(error), str(error))

    async def asked(self, request: Request, kind: type[T]) -> T:
        """What the body asks for. Raises BadRequestError when it is no such request."""
        try:
            return msgspec.json.decode(await request.read(), type=kind)
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"the body is no such request: {error}") from None

    def health(self, status: str, more: dict[str, object], request: Request, *, is_good: bool) -> Response:
        """The answer to a health check, which is open: *more* is for those who may read."""
        answer = {"status": status, **(more if may_read(request) else {})}
        return self.answer(answer, 200 if is_good else 503)


class TableList(Page):
    """The tables of this worker."""

    about = About((JSON,), ROWS)

    async def get(self, request: Request) -> Response:
        """List them."""
        del request
        return self.answer([_about(table) for table in tables_of(self.host).values()])


class TableRows(Page):
    """A page of rows; `next` is what to pass as `after` for the following one, null after the last."""

    about = About(
        (JSON,),
        OBJECT,
        {"after": {"type": "string"}, "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX}},
    )

    async def get(self, request: Request, name: str) -> Response:
        """Show it."""
        table = tables_of(self.host).get(name)
        if table is None:
            return self.refuse(404, f"no table {name!r}; GET /tables/ lists them")
        limit = request.query.get("limit", str(PAGE_ROWS))
        if not limit.isdecimal() or not 0 < int(limit) <= PAGE_ROWS_MAX:
            return self.refuse(400, f"limit is a number from 1 to {PAGE_ROWS_MAX}")
        try:
            shown, following = rows_of(table, request.query.get("after"), int(limit))
        except ValueError as error:
            return self.refuse(400, f"after is the key of a row: {error}")
        return self.answer({**_about(table), "rows": shown, "next": following})


class TableRow(Page):
    """One row of a partition that this worker owns."""

    about = About((JSON,), OBJECT)

    async def get(self, request: Request, name: str, key: str) -> Response:
        """Show it."""
        del request
        table = tables_of(self.host).get(name)
        if table is None:
            return self.refuse(404, f"no table {name!r}; GET /tables/ lists them")
        try:
            value = table.at(key)
        except ValueError as error:
            return self.refuse(400, str(error))
        if value is None:
            return self.refuse(404, f"no row {key!r} in partitions {table.partitions} of this worker")
        return self.answer({"key": key, "value": value})


class SubscriptionList(Page):
    """What became of the records of each subscription since this worker started."""

    about = About((JSON,), ROWS)

    async def get(self, request: Request) -> Response:
        """Count them."""
        del request
        next_offsets: dict[str, dict[str, int | None]] = {}
        paused: dict[str, dict[str, str]] = {}
        resting: Counter[str] = Counter()  # events that wait for another attempt, or for something else to end
        for now in partitions_of(self.host):
            topic, partition = now.place.topic, str(now.place.partition)
            next_offsets.setdefault(topic, {})[partition] = now.settled
            resting[topic] += now.resting
            if now.paused:
                paused.setdefault(topic, {})[partition] = now.paused
        return self.answer(
            [
                {
                    "topic": s.topic_name, **s.counts, "failures": failures_of(s.counts),
                    "resting": resting[s.topic_name], "paused": paused.get(s.topic_name, {}),
                    "next_offsets": next_offsets.get(s.topic_name, {}),
                    "processed": {str(n): p.processed for n, p in sorted(s.held.items()) if p.processed is not None},
                }
                for s in self.host.subscriptions.values()
            ]
        )  # fmt: skip


class DuplicateList(Page):
    """The last records of a subscription that were not handled because their event had been, the newest first."""

    about = About((JSON,), ROWS)

    async def get(self, request: Request, topic: str) -> Response:
        """Explain them."""
        del request
        subscription = self.host.subscriptions.get(topic)
        if subscription is None:
            return self.refuse(404, f"no subscription of {topic!r}; GET /subscriptions/ lists them")
        return self.answer([duplicate._asdict() for duplicate in reversed(subscription.counts.duplicates)])


class Metrics(Page):
    """What there is to measure, in the format that whoever asks accepts: Prometheus' text, or OpenMetrics."""

    about = About(("text/plain", "application/openmetrics-text"))

    async def get(self, request: Request) -> Response:
        """Look at everything."""
        encode, content_type = choose_encoder(cast(Any, request).headers.get("Accept", ""))
        return self.bytes(encode(WorkerCollector(self.host)), headers={"Content-Type": content_type})


class Ready(Page):
    """Whether the worker takes part: Kafka hears it, its partitions are assigned and restored, none of them is stuck.

    One without partitions, because others have them all, takes part, too. `why` says what is wrong, `waiting` for what
    handlers wait: that turns nothing red, since a new worker would too. Nor does what somebody has `paused`.
    """

    about = About((JSON,), HEALTH)

    async def get(self, request: Request) -> Response:
        """Look at the restoring, and at what is stuck."""
        is_ready = self.host.is_restored and not self.host.stuck
        more = {
            "why": why_not_ready(self.host), "waiting": self.host.waiting, "paused": self.host.paused,
            **_restoring(self.host),
        }  # fmt: skip
        return self.health("ready" if is_ready else "not ready", more, request, is_good=is_ready)


class Started(Page):
    """Whether the worker has come up: its first partitions are assigned, and their state is there. It stays so."""

    async def get(self, request: Request) -> Response:
        """Look whether that has happened."""
        has_started = self.host.has_started
        more = {"why": "" if has_started else why_not_ready(self.host), **_restoring(self.host)}
        return self.health("started" if has_started else "starting", more, request, is_good=has_started)


class Live(Page):
    """Whether the worker gets on: 503 names every event that is in hand for longer than `Worker.DeadlineS`."""

    about = About((JSON,), HEALTH)

    async def get(self, request: Request) -> Response:
        """Look at what is in hand."""
        overdue = self.host.intake.crew.overdue(self.host.settings.worker.deadline_s)
        return self.health("stuck" if overdue else "ok", {"overdue": overdue}, request, is_good=not overdue)


def status_of(error: Exception) -> int:
    """The HTTP status of an error: what is meant is not there, no broker answers, it cannot be done; else bad input."""
    if isinstance(error, ConfigError):
        return 404
    if isinstance(error, UnavailableError):
        return 503
    return 409 if isinstance(error, OperatingError) else 400


def add_views(app: Famulus) -> None:
    """Put the views of this module onto *app*'s web server."""
    app.page("/livez")(Live)
    app.page("/tables/")(TableList)
    app.page("/tables/{name}/")(TableRows)
    app.page("/tables/{name}/{key}/")(TableRow)
    app.page("/subscriptions/")(SubscriptionList)
    app.page("/subscriptions/{topic}/duplicates/")(DuplicateList)
    app.page("/metrics")(Metrics)
    app.page("/readyz")(Ready)
    app.page("/startupz")(Started)


def _restoring(app: Famulus) -> dict[str, object]:
    progress = app.holdings.restorer.progress
    return {
        "restored_records": progress.records, "of_records": progress.total, "seconds": round(progress.seconds, 1)
    }  # fmt: skip


def _about(table: Table[Any, Any]) -> dict[str, object]:
    return {"table": table.name, "help": table.help, "partitions": table.partitions}
