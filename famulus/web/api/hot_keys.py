"""`GET /hotkeys/`: the most frequent keys of this worker's partitions in the last ten minutes.

The figures are estimates from a sample, see `observability.hot_keys`. Keys are digests unless
`Worker.ShowKeys` is set.
"""

import time

from faust.web import Request, Response

from famulus.application import Famulus
from famulus.observability.hot_keys import HotPartition, hot_keys
from famulus.web.json_view import JsonView


def hot_keys_of(app: Famulus) -> list[HotPartition]:
    """Return the hot keys of every partition of this worker."""
    watches = {tp: processor.keys for tp, processor in app.assigned.processors.items()}
    return hot_keys(watches, time.time_ns() // 1_000_000, is_shown=app.settings.worker.show_keys)


class HotKeyList(JsonView):
    """The hot keys by partition."""

    async def get(self, request: Request) -> Response:
        """List them."""
        del request
        return self.answer({"topics": [of.as_json() for of in hot_keys_of(self.host)]})
