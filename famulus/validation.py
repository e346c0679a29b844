"""Checks of a project before anything starts: one line for each fault, with the cure."""

from collections.abc import Iterable, Mapping

import structlog

from famulus.config import KafkaConfig
from famulus.errors import ConfigError
from famulus.processing.handlers import Dispatcher, Handler
from famulus.processing.subscription import Subscription
from famulus.spelling import nearest, plain
from famulus.state.dedupe import FieldIdentity
from famulus.wiring import handlers_of, topic_of

log = structlog.get_logger()


def validate_handlers(
    subscriptions: Mapping[str, Subscription], dispatcher: Dispatcher, kafka: KafkaConfig
) -> None:
    """Raise ConfigError when handlers, subscriptions and settings do not fit each other."""
    for event_type in dispatcher.event_types:
        if topic_of(event_type) not in subscriptions:
            raise ConfigError(
                f"handlers take {event_type.__name__} of topic {topic_of(event_type)}, which "
                "no subscription reads: "
                f'app.subscription("{topic_of(event_type)}") in agents/'
            )
    _check_message_types(dispatcher, kafka)
    consumer = kafka.consumer_config
    if consumer.enable_auto_commit == "forced":
        log.warning(
            "EnableAutoCommit is forced: only what is done is committed, all the same",
            every_ms=consumer.auto_commit_interval_ms,
        )
    for subscription in subscriptions.values():
        handlers = handlers_of(subscription, dispatcher)
        _check_identity(subscription, handlers)
        _check_waits(handlers, kafka.consumer_config.max_poll_interval_ms / 1000)
        _check_retry_topics(handlers, subscription)


def _check_message_types(dispatcher: Dispatcher, kafka: KafkaConfig) -> None:
    """Refuse settings for a type without a handler, which would silently be ignored."""
    known = {
        plain(event_type.__name__): event_type.__name__ for event_type in dispatcher.event_types
    }
    for name in kafka.message_types:
        if name not in known:
            near = nearest(name, known)
            hint = (
                f"did you mean {known[near]}?"
                if near
                else f"there are {', '.join(known.values()) or 'none'}"
            )
            raise ConfigError(f"Kafka.MessageTypes: no event type {name!r} is handled here, {hint}")


def _check_identity(subscription: Subscription, handlers: Iterable[Handler]) -> None:
    """Refuse an identity field that no type has: each event would be known by its id alone."""
    dedupe = subscription.options.dedupe
    types = {handler.event_type for handler in handlers}
    if dedupe is None or not isinstance(dedupe.identity, FieldIdentity) or not types:
        return
    field = dedupe.identity.field.partition(".")[0]
    known = {name for event_type in types for name in event_type._options.fields}
    if field not in known:
        near = nearest(field, known)
        hint = f"; did you mean {near}?" if near else f"; there are {', '.join(sorted(known))}"
        raise ConfigError(
            f"app.subscription({subscription.name!r}): identity={dedupe.identity.field!r} is a "
            "field of no event that "
            f"is handled here{hint}"
        )


def _check_waits(handlers: Iterable[Handler], poll_s: float) -> None:
    """Refuse waits in the lane beyond MaxPollIntervalMs: they belong into retry topics."""
    for handler in handlers:
        total_s = handler.policy.retry.total_s
        if total_s > poll_s:
            raise ConfigError(
                f"handler {handler.name} may wait {total_s:g} s for its attempts, longer than "
                f"Kafka.ConsumerConfig.MaxPollIntervalMs ({poll_s:g} s): fewer attempts, "
                "shorter waits, or retry_topics"
            )


def _check_retry_topics(handlers: Iterable[Handler], subscription: Subscription) -> None:
    """Refuse different waits in one retry topic: the first event would hold up the others."""
    waits: dict[int, tuple[float, str]] = {}
    for handler in handlers:
        if handler.policy.delays_s and subscription.options.on_dead_letter == "sequence":
            raise ConfigError(
                f"handler {handler.name} has retry_topics, which give up the order, and topic "
                f"{subscription.name} has "
                'on_dead_letter="sequence", which keeps it: choose one'
            )
        for number, delay_s in enumerate(handler.policy.delays_s, 1):
            other_s, other = waits.setdefault(number, (delay_s, handler.name))
            if other_s != delay_s:
                raise ConfigError(
                    f"the retry topic {number} of {subscription.name} would have waits of "
                    f"{other_s:g} s ({other}) and "
                    f"of {delay_s:g} s ({handler.name}): all handlers of a topic share its "
                    "retry topics"
                )
