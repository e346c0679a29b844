"""The parts that a worker is made of, built from its settings."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from faust import Record as Event

from famulus.config import Settings
from famulus.deadletter.record import DeadLetters
from famulus.errors import ConfigError
from famulus.kafka.log_reader import log_consumer
from famulus.processing.failure_policy import FailurePolicy
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.handler_breaker import HandlerBreaker
from famulus.processing.failures.retry_policy import Policy, delays_of
from famulus.processing.handlers import Dispatcher, EventTypes, Handler, Sizes
from famulus.processing.partition_processor import Limits
from famulus.processing.payload_redeeming import PayloadRedeemer
from famulus.processing.pipeline import Pipeline
from famulus.processing.subscription import Subscription
from famulus.state.changelog_topic import LogReader, Sender
from famulus.state.checkpointer import Probe
from famulus.state.manager import PartitionStateManager, StateSpec
from famulus.state.restore import Restorer
from famulus.state.rocksdb_store import Memory, StateFolder

POISON_RATIO = 0.95  # of all: so many of them are no accidents of single senders


def topic_of(event_type: type[Event]) -> str:
    """Return the topic of an event type, as models name it."""
    return str(cast(Any, event_type).__topic__)  # Any: models are known by shape


def types_of(subscription: Subscription, dispatcher: Dispatcher) -> list[type[Event]]:
    """Return the handled event types of one topic."""
    return [t for t in dispatcher.event_types if topic_of(t) == subscription.name]


def handlers_of(subscription: Subscription, dispatcher: Dispatcher) -> list[Handler]:
    """Every handler of events of one topic."""
    return [h for t in types_of(subscription, dispatcher) for h in dispatcher.by_type.get(t, ())]


def remembers_s(subscriptions: Iterable[Subscription]) -> dict[str, float | None]:
    """Return for each topic how long its state recognises events, in seconds.

    None stands for no deduplication. Topics are named as on the cluster; those without state are
    left out.
    """
    dedupes = {s.topic_name: s.options.dedupe for s in subscriptions if s.state_topic is not None}
    return {topic: None if of is None else of.longest_ms / 1000 for topic, of in dedupes.items()}


def decoder_of(
    settings: Settings, subscription: Subscription, dispatcher: Dispatcher
) -> EventTypes:
    """Build the decoder of the events of one topic, with the size limits."""
    consumer = settings.kafka.consumer_config
    sizes = Sizes(consumer.max_value_bytes, consumer.max_headers)
    return EventTypes(subscription.name, types_of(subscription, dispatcher), sizes)


def limits_of(settings: Settings) -> Limits:
    """Return the limits of one partition: events in flight, records and bytes."""
    worker = settings.worker
    return Limits(
        lanes=worker.partition_concurrency or worker.concurrency,
        records=worker.queue_records,
        bytes=worker.queue_bytes,
        chunk=settings.kafka.consumer_config.max_poll_records,
        linger_s=settings.state.linger_ms / 1000,
    )


def policy_of(
    settings: Settings,
    event_type: type[Event],
    asked: Policy,
    retry_topics: Sequence[str | float],
    timeout_s: float | None,
) -> Policy:
    """Return the policy of a handler: that of its code, overridden by the settings of its type.

    Raises ConfigError for a wrong wait in retry topics.
    """
    usual, own = settings.failures, settings.kafka.message_type(event_type.__name__)
    try:
        delays_s = delays_of(retry_topics if own.retry_topics is None else own.retry_topics)
    except ValueError as error:
        raise ConfigError(f"retry_topics of a handler of {event_type.__name__}: {error}") from None
    limits_s = (own.handler_timeout_s, timeout_s, usual.handler_timeout_s)
    return replace(
        asked,
        retry=replace(asked.retry, attempts=own.retry_attempts or asked.retry.attempts),
        unclassified=own.unclassified or usual.unclassified,
        delays_s=delays_s,
        timeout_s=next(limit_s for limit_s in limits_s if limit_s is not None),
    )


def build_state_manager(  # all that it joins
    settings: Settings,
    subscriptions: Iterable[Subscription],
    folder: StateFolder,
    sender: Sender,
    probe: Probe,
    *,
    is_fenced: bool,
) -> PartitionStateManager:
    """Build the manager that opens and closes the state of partitions."""
    state = settings.state
    reader = LogReader(lambda: log_consumer(settings.kafka))
    return PartitionStateManager(
        remembered={
            s.topic_name: StateSpec(s.state_topic, s.dedupe_redelivered, s.tables, s.held)
            for s in subscriptions
        },
        folder=folder,
        memory=Memory.of(state.cache_mib, state.write_buffer_mib, state.compression),
        reader=reader,
        sender=sender,
        restorer=Restorer(reader, sender, state.tombstones_h),
        group_bytes=state.group_bytes,
        retention_h=state.retention_h,
        probe=probe,
        is_fenced=is_fenced,
    )


def build_pipeline(  # all that it joins
    settings: Settings,
    subscription: Subscription,
    dispatcher: Dispatcher,
    *,
    letters: DeadLetters,
    payload_redeemer: PayloadRedeemer,
    redelivery_topics: Sequence[str],
    now_ms: Callable[[], int],
) -> Pipeline:
    """Build the pipeline of one subscription."""
    options, dead, topic = subscription.options, settings.dead_letter, subscription.topic_name
    flood = Breaker(dead.flood_run, 1, dead.flood_ratio, dead.flood_window_s, dead.flood_run)
    poison = Breaker(dead.poison_run, 1, POISON_RATIO, dead.flood_window_s, dead.poison_run)
    return Pipeline(
        types=decoder_of(settings, subscription, dispatcher),
        dispatcher=dispatcher,
        dedupe=options.dedupe,
        dedupe_redelivered=subscription.dedupe_redelivered,
        counts=subscription.counts,
        on_unknown_type=options.on_unknown_type,
        failure_policy=FailurePolicy(
            topic=topic,
            letters=letters,
            counts=subscription.counts,
            flood=HandlerBreaker(
                flood,
                topic,
                "too many events fail for good:",
                (
                    "no further dead letter is written until one of them succeeds "
                    "(DeadLetter.FloodRun sets the limit)"
                ),
            ),
            poison=HandlerBreaker(
                poison,
                topic,
                (
                    "too many records are no event that this version can read, as if a producer "
                    "had changed:"
                ),
                "no further one becomes a dead letter until one of them can be read: deploy a "
                "version that reads them, "
                f"or start with DeadLetter.PoisonRun 0 (now {dead.poison_run}) to make dead "
                "letters of them all",
            ),
            succeeded=lambda: sum(
                handler.breaker.passed for handler in handlers_of(subscription, dispatcher)
            ),
            order=options.order,
            on_dead_letter=options.on_dead_letter,
            sequence_max=dead.sequence_max,
            on_sequence_full=dead.on_sequence_full,
            now_ms=now_ms,
        ),
        payload_redeemer=payload_redeemer,
        redelivery_topics=tuple(redelivery_topics),
    )
