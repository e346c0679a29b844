"""Whether the worker is well, for whoever starts, watches and ends it.

    GET /startupz  503 until the first assignment is restored, and why; 200 from then on
    GET /readyz    200, or 503 and how far the restoring of the state is, or what is stuck
    GET /livez     200, or 503 and the events that are in hand for too long

They are open to all, and to those without a token they say no more than their status.
"""

from faust.web import Request, Response

from famulus.application import Famulus
from famulus.web.json_view import JsonView
from famulus.web.readiness import is_ready, paused, waiting, warnings, why_not_ready
from famulus.web.route_docs import JSON, RouteDocs
from famulus.webserver.auth import may_read

HEALTH = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}


class Health(JsonView):
    """A health check."""

    about = RouteDocs((JSON,), HEALTH)

    def verdict(
        self, status: str, more: dict[str, object], request: Request, *, is_good: bool
    ) -> Response:
        """The answer, which is open to all: *more* is for those who may read."""
        answer = {"status": status, **(more if may_read(request) else {})}
        return self.answer(answer, 200 if is_good else 503)


class Ready(Health):
    """Whether the worker takes part: Kafka hears it, its partitions are assigned and restored, none of them is stuck.

    One without partitions, because others have them all, takes part, too. `why` says what is wrong,
    `waiting` for what handlers wait: that turns nothing red, since a new worker would too. Nor does
    what somebody has `paused`, nor the `warnings` of `worker.conditions`.
    """

    async def get(self, request: Request) -> Response:
        """Look at the restoring, and at what is stuck."""
        is_good = is_ready(self.host)
        more = {
            "why": why_not_ready(self.host),
            "waiting": waiting(self.host),
            "paused": paused(self.host),
            "warnings": warnings(self.host),
            **_restoring(self.host),
        }
        return self.verdict("ready" if is_good else "not ready", more, request, is_good=is_good)


class Started(Health):
    """Whether the worker has come up: its first partitions are assigned, and their state is there.

    It stays so.
    """

    async def get(self, request: Request) -> Response:
        """Look whether that has happened."""
        has_started = self.host.has_started
        more = {"why": "" if has_started else why_not_ready(self.host), **_restoring(self.host)}
        return self.verdict(
            "started" if has_started else "starting", more, request, is_good=has_started
        )


class Live(Health):
    """Whether the worker gets on: 503 names every event that is in hand for longer than `Worker.DeadlineS`."""

    async def get(self, request: Request) -> Response:
        """Look at what is in hand."""
        overdue = self.host.assigned.task_pool.overdue(self.host.settings.worker.deadline_s)
        return self.verdict(
            "stuck" if overdue else "ok", {"overdue": overdue}, request, is_good=not overdue
        )


def _restoring(app: Famulus) -> dict[str, object]:
    progress = app.state_manager.restorer.progress
    return {
        "restored_records": progress.records,
        "of_records": progress.total,
        "seconds": round(progress.seconds, 1),
    }
