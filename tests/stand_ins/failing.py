"""How events fail in tests: nothing opens a gate unless a test says so."""

from collections.abc import Callable
from typing import Any

from app.config import ClaimCheckConfig
from app.deadletter.names import dead_letter_topic
from app.deadletter.record import DeadLetters
from app.engine.failing import Failing
from app.engine.redeeming import Redeeming
from app.failures.circuit import Breaker
from app.failures.gate import Gate
from app.observe.metrics import Counts
from app.publish.claims import ClaimStore

NEVER = Breaker(failures=10**9)
NO_CLAIMS = Redeeming(ClaimStore(ClaimCheckConfig()))


def failing_of(
    counts: Counts, flood: Breaker = NEVER, poison: Breaker = NEVER, succeeded: Callable[[], int] = int, **options: Any
) -> Failing:  # fmt: skip
    """How the events of topic `t` fail, with *options* of Failing."""
    letters = DeadLetters(dead_letter_topic("t"), 1, "group", "1.0")
    gate = Gate(flood, "t", "flood:", "no dead letter leaves")
    return Failing("t", letters, counts, gate, Gate(poison, "t", "poison:", "deploy"), succeeded, **options)
