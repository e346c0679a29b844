"""`GET /console/hot-keys`: the page of the most frequent keys of this worker's partitions."""

from faust.web import Request, Response

from famulus.web.api.hot_keys import hot_keys_of
from famulus.web.console.html_page import HtmlPage


class HotKeysPage(HtmlPage):
    """The hot keys by partition."""

    path = "/console/hot-keys"

    async def get(self, request: Request) -> Response:
        """Show them."""
        found = [of.as_json() for of in hot_keys_of(self.host)]
        is_shown = self.host.settings.worker.show_keys
        return self.show(
            request,
            "hotkeys.html",
            partitions=[of for of in found if of["events"]],
            is_shown=is_shown,
        )
