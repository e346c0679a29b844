"""The front door: everything that `agents/` may import."""

from app.bootstrap import app
from app.commands import acls as _acls  # noqa: F401  # commands register themselves by being imported
from app.commands import broker as _broker  # noqa: F401
from app.commands import claims as _claims  # noqa: F401
from app.commands import config as _config  # noqa: F401
from app.commands import doctor as _doctor  # noqa: F401
from app.commands import keys as _keys  # noqa: F401
from app.commands import lag as _lag  # noqa: F401
from app.commands import pause as _pause  # noqa: F401
from app.commands import peek as _peek  # noqa: F401
from app.commands import tables as _tables  # noqa: F401
from app.commands import topics as _topics  # noqa: F401
from app.commands.base import take_settings
from app.commands.dlq import command as _dlq  # noqa: F401
from app.commands.explain import command as _explain  # noqa: F401
from app.commands.state import command as _state  # noqa: F401
from app.console.drain import add_drain
from app.console.login import add_login
from app.console.openapi import add_openapi
from app.console.pages import add_console
from app.console.paused import add_paused
from app.console.views import add_views
from app.errors import PermanentError, Reject, TransientError
from app.failures.circuit import Breaker
from app.failures.retry import Retry
from app.publish.bus import EventBus
from app.publish.producer import Producer
from app.publish.replies import ReplyRefusedError, RequestTimeoutError, TooManyRequestsError
from app.publish.results import Published
from app.wire.envelope import Delivery
from app.worker.transport import Deliveries

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
add_login(app)
add_console(app)
add_paused(app)
add_drain(app)
add_openapi(app)
take_settings()
