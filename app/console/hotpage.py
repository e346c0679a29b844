"""GET /console/hot-keys: which keys this worker's partitions have most, as `/hotkeys/` has it, for people."""

from faust.web import Request, Response

from app.bootstrap import Famulus
from app.console.hotkeys import hot_keys_of
from app.console.page import ConsolePage


class HotKeysPage(ConsolePage):
    """The hot keys by partition."""

    path = "/console/hot-keys"

    async def get(self, request: Request) -> Response:
        """Show them."""
        found = [of.as_json() for of in hot_keys_of(self.host)]
        is_shown = self.host.settings.worker.show_keys
        return self.show(request, "hotkeys.html", partitions=[of for of in found if of["events"]], is_shown=is_shown)


def add_hot_page(app: Famulus) -> None:
    """Put the view of this module onto *app*'s web server."""
    app.page("/console/hot-keys")(HotKeysPage)
