"""The front door: everything that `agents/` may import."""

from app.bootstrap import app
from app.commands import acls as _acls  # noqa: F401  # commands register themselves by being imported
from app.commands import broker as _broker  # noqa: F401
from app.commands import claims as _claims  # noqa: F401
from app.commands import concurrency as _concurrency  # noqa: F401
from app.commands import config as _config  # noqa: F401
from app.commands import doctor as _doctor  # noqa: F401
from app.commands import explain as _explain  # noqa: F401
from app.commands import hotkeys as _hotkeys  # noqa: F401
from app.commands import keys as _keys  # noqa: F401
from app.commands import lag as _lag  # noqa: F401
from app.commands import pause as _pause  # noqa: F401
from app.commands import peek as _peek  # noqa: F401
from app.commands import publish as _publish  # noqa: F401
from app.commands import reset as _reset  # noqa: F401
from app.commands import seek as _seek  # noqa: F401
from app.commands import tables as _tables  # noqa: F401
from app.commands import topics as _topics  # noqa: F401
from app.commands.base import adopt, take_settings
from app.commands.dlq import command as _dlq  # noqa: F401
from app.commands.state import command as _state  # noqa: F401
from app.console.acting import add_acting
from app.console.concurrency import add_concurrency
from app.console.drain import add_drain
from app.console.health import add_health
from app.console.hotkeys import add_hot_keys
from app.console.hotpage import add_hot_page
from app.console.lag import add_lag
from app.console.letters import add_letters
from app.console.login import add_login
from app.console.metering import add_metering
from app.console.openapi import add_openapi
from app.console.pages import add_console
from app.console.paused import add_paused
from app.console.seek import add_seek
from app.console.stream import add_stream
from app.console.views import add_views
from app.errors import PermanentError, Reject, TransientError
from app.failures.circuit import Breaker
from app.failures.retry import Retry
from app.publish.bus import EventBus
from app.publish.producer import Producer
from app.publish.replies import ReplyRefusedError, RequestTimeoutError, TooManyRequestsError
from app.publish.results import Published
from app.wire.envelope import Delivery
from app.worker.deliveries import Deliveries

__all__ = [
    "Breaker",
    "Deliveries",
    "Delivery",
    "EventBus",
    "PermanentError",
    "Producer",
    "Published",
    "Reject",
    "ReplyRefusedError",
    "RequestTimeoutError",
    "Retry",
    "TooManyRequestsError",
    "TransientError",
    "app",
    "handles",
]

handles = app.handles
add_views(app)
add_health(app)
add_login(app)
add_console(app)
add_stream(app)
add_letters(app)
add_acting(app)
add_paused(app)
add_drain(app)
add_hot_keys(app)
add_hot_page(app)
add_lag(app)
add_metering(app)
add_seek(app)
add_concurrency(app)
add_openapi(app)
take_settings()
adopt()
