"""How events fail in tests: nothing opens a gate unless a test says so."""

from collections.abc import Callable
from typing import Any

from famulus.config import ClaimCheckConfig
from famulus.deadletter.record import DeadLetters
from famulus.deadletter.topics import dead_letter_topic
from famulus.observability.metrics import Counts
from famulus.processing.failure_policy import FailurePolicy
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.handler_breaker import HandlerBreaker
from famulus.processing.payload_redeeming import PayloadRedeemer
from famulus.producer.payload_store import PayloadStore

NEVER = Breaker(failures=10**9)
NO_CLAIMS = PayloadRedeemer(PayloadStore(ClaimCheckConfig()))


def failing_of(
    counts: Counts,
    flood: Breaker = NEVER,
    poison: Breaker = NEVER,
    succeeded: Callable[[], int] = int,
    **options: Any,
) -> FailurePolicy:
    """How the events of topic `t` fail, with *options* of Failing."""
    letters = DeadLetters(dead_letter_topic("t"), 1, "group", "1.0")
    gate = HandlerBreaker(flood, "t", "flood:", "no dead letter leaves")
    return FailurePolicy(
        "t",
        letters,
        counts,
        gate,
        HandlerBreaker(poison, "t", "poison:", "deploy"),
        succeeded,
        **options,
    )
