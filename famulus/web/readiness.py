"""Readiness of a worker, and the reasons against it, in one place for all views."""

from typing import Any, cast

from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from famulus.application import Famulus
from famulus.formatting import behind_transaction, number


def is_restored(app: Famulus) -> bool:
    """Return True if this worker's partitions are assigned and their state is restored."""
    return bool(cast(Any, app.tables).recovery.completed.is_set() and not app.rebalancing)


def is_ready(app: Famulus) -> bool:
    """Return True if the worker takes part and none of its partitions is stuck."""
    return is_restored(app) and not (app.should_stop or stuck(app))


def stuck(app: Famulus) -> list[str]:
    """Return why the worker, or partitions of it, make no progress until an operator acts."""
    processors = app.assigned.processors.values()
    floods = [why for p in app.pipelines.values() for why in p.failure_policy.open_breakers]
    scheduled = app.scheduler.blocked if app.scheduler is not None else ""
    partitions = *(f.halted for f in processors), *(f.blocked for f in processors)
    group = app.membership.refused, _unheard(app)
    stalled = *app.uncarried(), *app.watchdog.stalled
    every = *group, *stalled, *floods, *partitions, scheduled, *app.watch.red
    return list(dict.fromkeys(why for why in every if why))


def warnings(app: Famulus) -> list[str]:
    """Say what is wrong with the surroundings and stops nothing yet."""
    return app.watch.warnings


def waiting(app: Famulus) -> list[str]:
    """Return what handlers or partitions wait for; they continue without an operator."""
    gates = (handler.breaker.why for handler in app.dispatcher.handlers)
    return [why for why in (app.claims.away, *gates, *_transactions(app)) if why]


def open_since(app: Famulus, tp: TP) -> int | None:
    """Where the open transaction begins that keeps *tp* from being read on, None when none does."""
    consumer: Any = app._consumer
    try:
        since: int | None = None if consumer is None else consumer.open_since(tp)
    except (AssertionError, AttributeError, KeyError, ConsumerNotStarted):
        return None  # taken away meanwhile: aiokafka's thread knows before we do
    return since


def _transactions(app: Famulus) -> list[str]:
    """Return the partitions that wait for the end of another client's transaction."""
    opened = ((tp, open_since(app, tp)) for tp in app.assigned.processors)
    return [
        behind_transaction(f"{tp.topic}-{tp.partition}", since)
        for tp, since in opened
        if since is not None
    ]


def paused(app: Famulus) -> list[str]:
    """Return the pauses that hold partitions of this worker."""
    return sorted(
        {processor.paused for processor in app.assigned.processors.values() if processor.paused}
    )


def why_not_ready(app: Famulus) -> str:
    """Return why a worker does not take part; empty if it does."""
    if app.should_stop:
        return "the worker stops"
    progress = app.state_manager.restorer.progress
    why = progress.waiting_for or "; ".join(stuck(app))
    if why or is_restored(app):
        return why
    if progress.partitions and progress.ended is None:
        of = number(progress.partitions, "partition")
        return (
            f"the state of {of} is restored: {progress.records:,} of "
            f"{number(progress.total, 'record')}"
        )
    return "the group has not assigned partitions yet, or assigns them anew"


def _unheard(app: Famulus) -> str:
    """Return why Kafka does not hear of this member of the group; empty while it does."""
    if not is_restored(app) or cast(Any, app._consumer).is_member():
        return ""
    limit_s = app.settings.kafka.consumer_config.session_timeout_ms / 1000
    return (
        f"no broker has answered this worker for {limit_s:g} s: the group gives its "
        "partitions to others"
    )
