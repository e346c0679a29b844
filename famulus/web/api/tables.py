"""The routes for tables, subscriptions and metrics.

    GET /tables/                         the tables
    GET /tables/NAME/?after=KEY&limit=N  a page of rows, in the order of the text of their keys;
                                         `unreadable` has those that cannot be read, with reasons
    GET /tables/NAME/KEY/                one row
    GET /subscriptions/                  outcomes of records, and the settled offset of partitions
    GET /subscriptions/TOPIC/duplicates/ the last duplicates, and what they are duplicates of
    GET /metrics                         all figures for Prometheus, see docs/metrics.md

A worker answers for the partitions that it owns, and names them. Only settled state is shown.
`webserver.auth` decides who may read.
"""

from collections import Counter
from contextlib import suppress
from typing import Any, cast

from faust.web import Request, Response
from prometheus_client.exposition import choose_encoder

from famulus.errors import AccessError, UnavailableError, UnreadableRowError
from famulus.state.tables import Table
from famulus.web.api.metrics import WorkerCollector
from famulus.web.json_view import JsonView, whole
from famulus.web.route_docs import JSON, OBJECT, ROWS, RouteDocs
from famulus.web.worker_status import (
    failures_of,
    partitions_of,
    rows_of,
    tables_of,
    workers_of,
)

PAGE_ROWS = 100
PAGE_ROWS_MAX = 10_000


class TableList(JsonView):
    """The tables of this worker."""

    about = RouteDocs((JSON,), ROWS)

    async def get(self, request: Request) -> Response:
        """List them."""
        del request
        return self.answer([_about(table) for table in tables_of(self.host).values()])


class TableRows(JsonView):
    """A page of rows; `next` is the `after` of the following page, null after the last."""

    about = RouteDocs(
        (JSON,),
        OBJECT,
        {
            "after": {"type": "string"},
            "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_ROWS_MAX},
        },
    )

    async def get(self, request: Request, name: str) -> Response:
        """Show it."""
        table = tables_of(self.host).get(name)
        if table is None:
            return self.refuse(404, f"no table {name!r}; GET /tables/ lists them")
        limit = whole(request.query.get("limit", str(PAGE_ROWS)), "limit", 1, PAGE_ROWS_MAX)
        after = request.query.get("after")
        try:
            position = None if after is None else table.position(after)
        except ValueError as error:
            return self.refuse(400, f"after is the key of a row: {error}")
        shown, following = rows_of(table, position, limit)
        rows = [(row.key, row.value) for row in shown if not row.unreadable]
        unreadable = [{"key": row.text, "why": row.unreadable} for row in shown if row.unreadable]
        return self.answer(
            {**_about(table), "rows": rows, "unreadable": unreadable, "next": following}
        )


class TableRow(JsonView):
    """One row of a partition that this worker owns.

    A row that is not here may be at another worker of the group: `elsewhere` says which worker has
    which of the other partitions, as client@host, where the group answers.
    """

    about = RouteDocs((JSON,), OBJECT)

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
        except UnreadableRowError as error:
            return self.answer({"error": str(error), "key": key}, 409)
        if value is None:
            return await self._missing(table, key)
        return self.answer({"key": key, "value": value})

    async def _missing(self, table: Table[Any, Any], key: str) -> Response:
        """Answer that a row is not here, and who may have it."""
        own, elsewhere = set(table.partitions), dict[str, list[int]]()
        with suppress(UnavailableError, AccessError):
            for name, topics in await workers_of(self.host):
                numbers = dict(topics).get(table.topic, [])
                others = [number for number in numbers if number not in own]
                if others:
                    elsewhere[name] = sorted({*elsewhere.get(name, ()), *others})
        why = f"no row {key!r} in partitions {sorted(own)} of this worker"
        if elsewhere:
            each = "; ".join(f"{numbers} are at {name}" for name, numbers in elsewhere.items())
            why = f"{why}; {each}"
        return self.answer({"error": why, "elsewhere": elsewhere}, 404)


class SubscriptionList(JsonView):
    """Outcomes of the records of each subscription since this worker started."""

    about = RouteDocs((JSON,), ROWS)

    async def get(self, request: Request) -> Response:
        """Count them."""
        del request
        next_offsets: dict[str, dict[str, int | None]] = {}
        paused: dict[str, dict[str, str]] = {}
        # Events that wait for another attempt, or for something else to end.
        resting: Counter[str] = Counter()
        for now in partitions_of(self.host):
            topic, partition = now.place.topic, str(now.place.partition)
            next_offsets.setdefault(topic, {})[partition] = now.settled
            resting[topic] += now.resting
            if now.paused:
                paused.setdefault(topic, {})[partition] = now.paused
        return self.answer(
            [
                {
                    "topic": s.topic_name,
                    **s.counts,
                    "failures": failures_of(s.counts),
                    "resting": resting[s.topic_name],
                    "paused": paused.get(s.topic_name, {}),
                    "next_offsets": next_offsets.get(s.topic_name, {}),
                    "processed": {
                        str(n): p.processed
                        for n, p in sorted(s.held.items())
                        if p.processed is not None
                    },
                }
                for s in self.host.subscriptions.values()
            ]
        )


class DuplicateList(JsonView):
    """The last duplicates of a subscription, newest first."""

    about = RouteDocs((JSON,), ROWS)

    async def get(self, request: Request, topic: str) -> Response:
        """Explain them."""
        del request
        subscription = self.host.subscriptions.get(topic)
        if subscription is None:
            return self.refuse(404, f"no subscription of {topic!r}; GET /subscriptions/ lists them")
        return self.answer(
            [duplicate._asdict() for duplicate in reversed(subscription.counts.duplicates)]
        )


class Metrics(JsonView):
    """All metrics, in the format that the request accepts: Prometheus' text, or OpenMetrics."""

    about = RouteDocs(("text/plain", "application/openmetrics-text"))

    async def get(self, request: Request) -> Response:
        """Look at everything."""
        encode, content_type = choose_encoder(cast(Any, request).headers.get("Accept", ""))
        return self.bytes(
            encode(WorkerCollector(self.host)), headers={"Content-Type": content_type}
        )


def _about(table: Table[Any, Any]) -> dict[str, object]:
    return {"table": table.name, "help": table.help, "partitions": table.partitions}
