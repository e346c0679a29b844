"""`GET /lag/`: the lag of the whole group, from any of its workers. Autoscalers ask here.

The figures are the cluster's own, as in `faust -A app lag --json`. The cluster is asked at most
once a second, by one request at a time.
"""

import asyncio
import time
from functools import cached_property

from faust.web import Request, Response

from famulus.errors import OperatingError
from famulus.kafka.lag import GroupLag, GroupLagMonitor
from famulus.web.json_view import JsonView

ASK_S = 5.0  # for the cluster to answer
FRESH_S = 1.0


class GroupLagView(JsonView):
    """Lag of the group, in all and by partition."""

    _asking = asyncio.Lock()
    _found: GroupLag | None = None
    _at_s = 0.0  # by the monotonic clock

    @cached_property
    def _watch(self) -> GroupLagMonitor:
        app = self.host
        return GroupLagMonitor(app.settings.kafka, app.group, ASK_S, expected=app.managed_topics)

    async def get(self, request: Request) -> Response:
        """Show it, or say why the cluster does not tell."""
        del request
        try:
            return self.answer((await self._look()).as_json())
        except OperatingError as error:
            return self.refuse(503, f"the cluster does not say how far the group is: {error}")

    async def _look(self) -> GroupLag:
        async with self._asking:
            if self._found is None or time.monotonic() - self._at_s > FRESH_S:
                self._found, self._at_s = await self._watch.look(), time.monotonic()
            return self._found
