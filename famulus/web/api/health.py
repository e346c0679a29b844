"""The health checks, for supervisors and load balancers.

    GET /startupz  503 with the reason until the first assignment is restored, 200 from then on
    GET /readyz    200, or 503 with the progress of the restore, or with the stuck partitions
    GET /livez     200, or 503 with the events that are in flight for too long

No token is needed. A request without one gets the status alone.
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
        """Return the answer; *more* is included for requests that may read."""
        answer = {"status": status, **(more if may_read(request) else {})}
        return self.answer(answer, 200 if is_good else 503)


class Ready(Health):
    """Readiness: Kafka hears the worker, its partitions are restored, and none is stuck.

    A worker without partitions, because others have all of them, is ready as well. `why` names a
    fault. `waiting` names resources that handlers wait for: a new worker would wait, too, so these
    are no fault. `paused` partitions and the `warnings` of `runtime.conditions` are no fault
    either.
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
    """Startup: the first partitions are assigned, and their state is restored.

    The answer stays 200 from then on.
    """

    async def get(self, request: Request) -> Response:
        """Look whether that has happened."""
        has_started = self.host.has_started
        more = {"why": "" if has_started else why_not_ready(self.host), **_restoring(self.host)}
        return self.verdict(
            "started" if has_started else "starting", more, request, is_good=has_started
        )


class Live(Health):
    """Liveness: 503 names every event that is in flight for longer than `Worker.DeadlineS`."""

    async def get(self, request: Request) -> Response:
        """Check how long events have been in flight."""
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
