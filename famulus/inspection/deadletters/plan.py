"""What is to be done about the letters that are meant."""

from famulus.deadletter.dead_letter import Done
from famulus.deadletter.index import HOPS_MAX, DeadLetterIndex, Plan, planned
from famulus.processing.subscription import Subscription

RATE = 500  # letters per second, unless somebody says otherwise


def plan_of(
    subscription: Subscription,
    register: DeadLetterIndex,
    action: Done,
    *,
    limit: int | None = None,
    is_forced: bool = False,
) -> Plan:
    """The letters of *register* that are meant, *limit* at most, and what comes with them or stays.

    Those that were redriven too often are not redriven unless *is_forced*.
    """
    return planned(
        register.entries(),
        by_partition=subscription.options.order == "partition",
        limit=limit,
        hops_max=None if is_forced or action == "drop" else HOPS_MAX,
        is_drop=action == "drop",
    )
