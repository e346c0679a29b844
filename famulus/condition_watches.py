"""Periodic checks of a worker: its topics, its agents, its clock and its open files."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from famulus.config import Settings
from famulus.control.control_state import CLOCK
from famulus.control.pauses import admin_topic
from famulus.errors import ConfigError, OperatingError
from famulus.processing.subscription import Subscription
from famulus.producer.producer import Producer
from famulus.runtime.broker_clock import Clock
from famulus.runtime.conditions import Condition, Watch
from famulus.runtime.topic_watch import Needs, Topics
from famulus.runtime.tuning import about_files
from famulus.serialization.records import ProducerRecord

log = structlog.get_logger()
UNSTAMPED_MS = 1  # the time of a record that a broker is to date: one that it leaves alone keeps it


def watch_of(  # all that is looked at
    settings: Settings,
    topics: Topics,
    clock: Clock,
    on_fault: Callable[[Exception], Awaitable[object]],
    *,
    is_same: Callable[[], Awaitable[None]],
    uncarried: Callable[[], Iterable[str]],
    partitions: Callable[[], int],
) -> Watch:
    """Make the watch.

    *is_same* raises ConfigError when a topic is another one than its state belongs to. *uncarried*
    says of which topics nothing is carried, *partitions* how many have a store here.
    """
    worker = settings.worker

    async def identity() -> list[Condition] | None:
        try:
            await is_same()
        except ConfigError as error:
            return [Condition("topic-changed", "the state", error.message, ends_after_s=0.0)]
        except OperatingError as error:
            log.warning("topics cannot be compared", error=error.message)
            return None
        return []

    async def agents() -> list[Condition]:
        return [
            Condition("agent", why, why, ends_after_s=worker.startup_timeout_s)
            for why in uncarried()
        ]

    async def files() -> list[Condition]:
        return [
            Condition("open-files", "this process", why, is_red=False)
            for why in about_files(partitions())
        ]

    return Watch(
        [topics.look, identity, agents, clock.look, files], worker.watch_interval_s, on_fault
    )


def needs_of(
    subscriptions: Iterable[Subscription],
    letters: Callable[[Subscription], str],
    back: Callable[[Subscription], list[str]],
    retired: Mapping[str, Sequence[str]],
) -> list[Needs]:
    """Say which topics each of *subscriptions* stands on."""
    return [
        Needs(
            s.topic_name,
            letters(s),
            back(s),
            s.state_topic,
            may_grow(s),
            retired.get(s.topic_name, ()),
        )
        for s in subscriptions
    ]


def may_grow(subscription: Subscription) -> bool:
    """Return True if the topic may get partitions: its state has nothing by the keys."""
    return not subscription.tables and subscription.options.on_dead_letter != "sequence"


def stamp_of(sender: Producer, group: str) -> Callable[[], Awaitable[int | None]]:
    """Return a function that asks a broker for its time, by a tombstone in the admin topic.

    Compaction removes the tombstone. The function returns None when the topic does not date its
    records (LogAppendTime). Raises as the producer does.
    """
    topic = admin_topic(group)

    async def stamp() -> int | None:
        sent = await sender.send(
            ProducerRecord(topic, CLOCK.encode(), None, partition=0, timestamp_ms=UNSTAMPED_MS)
        )
        return None if sent.timestamp_ms == UNSTAMPED_MS else sent.timestamp_ms

    return stamp
