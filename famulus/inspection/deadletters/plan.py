"""Plans for the selected dead letters of a subscription."""

from famulus.deadletter.dead_letter import Done
from famulus.deadletter.index import HOPS_MAX, DeadLetterIndex, Plan, planned
from famulus.processing.subscription import Subscription

RATE = 500  # dead letters per second unless the caller sets another rate


def plan_of(
    subscription: Subscription,
    register: DeadLetterIndex,
    action: Done,
    *,
    limit: int | None = None,
    is_forced: bool = False,
) -> Plan:
    """Plan *action* for the selected dead letters of *register*.

    The plan adds dead letters that must go first, and names those that have to stay. At most
    *limit* are chosen in all, None for no limit. Dead letters that were redriven `HOPS_MAX` times
    are not redriven again unless *is_forced*.
    """
    return planned(
        register.entries(),
        by_partition=subscription.options.order == "partition",
        limit=limit,
        hops_max=None if is_forced or action == "drop" else HOPS_MAX,
        is_drop=action == "drop",
    )
