"""The app of this project: what `faust -A app worker` runs, and what `agents/` import."""

from pathlib import Path

from famulus import (
    Breaker,
    Consumed,
    Deliveries,
    Delivery,
    EventBus,
    Famulus,
    LagMonitor,
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
    "Consumed",
    "Deliveries",
    "Delivery",
    "EventBus",
    "LagMonitor",
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
