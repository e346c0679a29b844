"""The app of this project: what `faust -A app worker` runs, and what `agents/` import."""

from pathlib import Path

from famulus import (
    Breaker,
    Deliveries,
    Delivery,
    EventBus,
    Famulus,
    PermanentError,
    Producer,
    Published,
    Reject,
    ReplyRefusedError,
    RequestTimeoutError,
    Retry,
    TooManyRequestsError,
    TransientError,
)

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

app = Famulus.from_project(Path(__file__).resolve().parent.parent)
handles = app.handles
