"""A production worker for events on Apache Kafka, built on Faust.

This module is what projects import.

Importing a name loads what it needs and no more: `from famulus import Event` loads no Kafka client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from famulus.application import Famulus
    from famulus.consumer.agent_stream import Deliveries
    from famulus.errors import PermanentError, Reject, TransientError
    from famulus.kafka.lag_monitor import LagMonitor
    from famulus.model import Event, Part
    from famulus.observability.consumed import Consumed
    from famulus.processing.failures.circuit_breaker import Breaker
    from famulus.processing.failures.retry_policy import Retry
    from famulus.producer.event_bus import EventBus
    from famulus.producer.producer import Producer
    from famulus.producer.reply_headers import (
        ReplyRefusedError,
        RequestTimeoutError,
        TooManyRequestsError,
    )
    from famulus.producer.results import Published
    from famulus.serialization.records import Delivery

__all__ = [
    "Breaker",
    "Consumed",
    "Deliveries",
    "Delivery",
    "Event",
    "EventBus",
    "Famulus",
    "LagMonitor",
    "Part",
    "PermanentError",
    "Producer",
    "Published",
    "Reject",
    "ReplyRefusedError",
    "RequestTimeoutError",
    "Retry",
    "TooManyRequestsError",
    "TransientError",
]

_HOMES = {
    "Breaker": "processing.failures.circuit_breaker",
    "Consumed": "observability.consumed",
    "Deliveries": "consumer.agent_stream",
    "Delivery": "serialization.records",
    "Event": "model",
    "EventBus": "producer.event_bus",
    "Famulus": "application",
    "LagMonitor": "kafka.lag_monitor",
    "Part": "model",
    "PermanentError": "errors",
    "Producer": "producer.producer",
    "Published": "producer.results",
    "Reject": "errors",
    "ReplyRefusedError": "producer.reply_headers",
    "RequestTimeoutError": "producer.reply_headers",
    "Retry": "processing.failures.retry_policy",
    "TooManyRequestsError": "producer.reply_headers",
    "TransientError": "errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
