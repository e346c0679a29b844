"""The only place that builds objects and joins them: settings, producer, bus, dispatcher, pipelines, Faust's app."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import faust
import svcs
from faust import Record as Event
from faust.types import AgentT

from app.config import Settings, load_settings
from app.deadletter.names import dead_letter_topic, redrive_topic, retry_topic
from app.deadletter.record import DeadLetters
from app.engine.dispatch import Dispatcher, EventTypes, Handler, OnUnknownType, handler_for
from app.engine.failing import Failing, OnDeadLetter, Order
from app.engine.flow import Limits
from app.engine.pipeline import Pipeline
from app.engine.subscription import Options, Subscription, Windows, dedupe_of
from app.errors import ConfigError, InvariantError, OperatingError
from app.failures.circuit import Breaker
from app.failures.gate import Gate
from app.failures.retry import Policy, Retry, delays_of
from app.observe.health import log_consumer, partitions_of, prepare_state_topics, prepare_topics_back
from app.publish.bus import EventBus
from app.publish.producer import Producer
from app.state.commit import Probe
from app.state.dedupe import Identity
from app.state.unit import current_unit
from app.storage.log import LogReader
from app.storage.restore import Restorer
from app.storage.store import Memory, StateFolder
from app.worker.holdings import Holdings, Remembered
from app.worker.intake import Intake
from app.worker.options import faust_options
from app.worker.process import Worker, plain_logs, settle_in
from app.worker.recovery import Tables
from app.worker.transport import Deliveries, Transport

T = TypeVar("T", bound=Callable[..., Any])
ROOT = Path(__file__).resolve().parent.parent


class Famulus(faust.App):
    """Faust's app with our data path: subscriptions, handlers, services, and a start that checks first."""

    def __init__(self, settings: Settings) -> None:
        kafka, worker = settings.kafka, settings.worker
        self.settings = settings
        self.drain_timeout_s = worker.drain_timeout_s
        self.stop_timeout_s = worker.stop_timeout_s
        self.on_commit_ahead = settings.state.on_commit_ahead
        self.subscriptions: dict[str, Subscription] = {}
        self.pipelines: dict[str, Pipeline] = {}
        self.carried: set[str] = set()  # topics that flows read, as on the cluster
        self.probe: Probe = lambda _: None  # told each step of settling, for tests that die there
        self.fencing = True  # off only to show in a test what it is good for
        self.is_drained = True
        self.fault: OperatingError | None = None
        self.services = svcs.Registry()
        self.sender = Producer(kafka)
        self.bus = EventBus(self.sender, current_unit)
        self.dispatcher = Dispatcher(self.services, self.bus)
        self.folder = StateFolder(Path(worker.data_dir) / "state")
        self.timeouts_s: dict[str, float] = {}  # by handler
        self._table_names: dict[str, Subscription] = {}
        self.intake = Intake(
            _limits(settings),
            worker.concurrency,
            self.timeouts_s,
            may_write=lambda: cast(Any, self._consumer).is_member(),
            publish=self.sender.deliver,
            on_fault=self.fail,
            probe=self._note_step,
        )
        super().__init__(
            kafka.consumer_config.group_id, Stream=Deliveries, TableManager=Tables, Worker=Worker,
            **faust_options(settings),
        )  # fmt: skip

    # What users say.

    def subscription(  # noqa: PLR0913  # each has a default
        self,
        topic: str,
        *,
        on_unknown_type: OnUnknownType = "ignore",
        order: Order = "key",
        dedupe: bool = True,
        dedupe_window: Windows | None = None,
        identity: str | Identity | None = None,
        on_dead_letter: OnDeadLetter = "skip",
    ) -> Subscription:
        """Read *topic*: declares its tables' home and the source of one agent.

        *on_unknown_type* says what becomes of a record whose type has no handler here: other teams may write to a
        shared topic, so it is counted and left alone unless you say `dead_letter`, or `fail`, which ends the worker.
        *order* is kept per record key, records without one being free of each other, or for the whole `partition`.
        *dedupe* false takes every record for a new event: an event that comes twice takes effect twice. Else it is
        recognised for *dedupe_window* (`State.DedupeWindowS` unless set), which may be a mapping by event type, by its
        id, or by *identity*: a field of the event, or a function of it.
        *on_dead_letter* says what becomes of the events behind one that failed for good: `skip` it, go on with them;
        `sequence`, those of its key are parked behind it among the dead letters, in order, until it was redriven or
        dropped; `halt`, there is no dead letter, and nothing more of the partition is started.
        """
        if topic in self.subscriptions:
            raise ConfigError(f"topic {topic} has two subscriptions; one agent reads a topic, its handlers share it")
        window_s = self.settings.state.dedupe_window_s
        remembered = dedupe_of(window_s, dedupe_window, identity) if dedupe else None
        options = Options(on_unknown_type, order, remembered, on_dead_letter)
        kafka = self.settings.kafka
        source = self.topic(
            kafka.topic(topic), key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
        )
        group = kafka.consumer_config.group_id
        # A test's prefix stands before everything; the group has it already.
        state_topic = f"{group}-{topic}-state"
        self.subscriptions[topic] = Subscription(topic, source, options, self._table_names, state_topic)
        return self.subscriptions[topic]

    def agent(self, channel: Any = None, **options: Any) -> Callable[[Callable[..., Any]], AgentT[Any]]:
        """Faust's agent decorator; takes a subscription as well."""
        if isinstance(channel, Subscription):
            channel.has_agent = True
            channel = channel.topic
        return super().agent(channel, **options)

    def handles(  # noqa: PLR0913  # each has a default
        self,
        event_type: type[Event],
        *,
        retry: Retry = Retry(),  # noqa: B008  # frozen
        transient: tuple[type[Exception], ...] = (),
        permanent: tuple[type[Exception], ...] = (),
        retry_topics: Sequence[str | float] = (),
        timeout_s: float | None = None,
        breaker: Breaker = Breaker(),  # noqa: B008  # frozen
    ) -> Callable[[T], T]:
        """Make a function, or a class with a method `handle`, a handler of *event_type*.

        What it raises decides how the event goes on: `TransientError`, one of *transient* or a connection that fails is
        tried again as *retry* says; `PermanentError`, `Reject` or one of *permanent* makes it a dead letter at once;
        anything else is what `Failures.Unclassified` says. An attempt may take *timeout_s*, `Failures.HandlerTimeoutS`
        unless set, 0 is for ever.
        With *retry_topics*, such as `["1m", "10m", "1h"]`, an event whose attempts are used up leaves its lane and
        waits in topics of this group, where it has one more attempt after each wait, never before: later events of its
        key overtake it. *breaker* says when what the handler needs counts as away: then its events wait.
        Raises ConfigError for a wait that is none.
        """
        try:
            delays_s = delays_of(retry_topics)
        except ValueError as error:
            raise ConfigError(f"retry_topics of a handler of {event_type.__name__}: {error}") from None
        failures = self.settings.failures
        limit_s = failures.handler_timeout_s if timeout_s is None else timeout_s
        policy = Policy(retry, transient, permanent, failures.unclassified, delays_s, limit_s)

        def register(target: T) -> T:
            handler = handler_for(event_type, target, policy, breaker)
            self.dispatcher.add(handler)
            if limit_s:
                self.timeouts_s[handler.name] = limit_s
            return target

        return register

    def event_type(self, namespace: str) -> type[Event]:
        """The handled event type that is called *namespace* on the wire. Raises KeyError when there is none."""
        return {str(t._options.namespace): t for t in self.dispatcher.event_types}[namespace]

    # What the worker needs before it starts.

    def topics_needed(self) -> dict[str, int]:
        """The topics that must exist, as named on the cluster, each with the partitions it would be created with."""
        names = [name for s in self.subscriptions.values() for name in (s.topic_name, self.dead_letter_topic(s))]
        return dict.fromkeys(names, self.settings.kafka.partitions)

    def dead_letter_topic(self, subscription: Subscription) -> str:
        """The dead letter topic of *subscription*, as named on the cluster."""
        group = self.group if self.settings.dead_letter.per_group else ""
        return dead_letter_topic(subscription.topic_name, group)

    def redrive_topic(self, subscription: Subscription) -> str:
        """Through which dead letters come back to this group, as named on the cluster."""
        return redrive_topic(subscription.topic_name, self.group)

    def topics_back(self, subscription: Subscription) -> list[str]:
        """The topics through which records come back to this group, as named on the cluster."""
        stages = max((len(handler.policy.delays_s) for handler in self.handlers_of(subscription)), default=0)
        topic = subscription.topic_name
        return [redrive_topic(topic, self.group), *(retry_topic(topic, self.group, n + 1) for n in range(stages))]

    def handlers_of(self, subscription: Subscription) -> list[Handler]:
        """Every handler of events of one topic."""
        return [h for t in self._types_of(subscription) for h in self.dispatcher.handlers_of(t)]

    def _types_of(self, subscription: Subscription) -> list[type[Event]]:
        return [t for t in self.dispatcher.event_types if _topic_of(t) == subscription.name]

    @property
    def group(self) -> str:
        """The consumer group of every worker of this app."""
        return self.settings.kafka.consumer_config.group_id

    @property
    def state_topics(self) -> set[str]:
        """The state changelogs of all subscriptions."""
        return {s.state_topic for s in self.subscriptions.values() if s.state_topic is not None}

    @property
    def is_restored(self) -> bool:
        """Whether this worker's partitions are assigned and their state is there."""
        return bool(cast(Any, self.tables).recovery.completed.is_set() and not self.rebalancing)

    @property
    def stuck(self) -> list[str]:
        """Why partitions of this worker do not get on, in words: somebody has to do something."""
        flows = self.intake.flows.values()
        floods = [p.failing.flood.why for p in self.pipelines.values()]
        return [why for why in (*floods, *(f.halted for f in flows), *(f.blocked for f in flows)) if why]

    @property
    def waiting(self) -> list[str]:
        """For what handlers wait, in words; they go on by themselves when it is there again."""
        handlers = (h for t in self.dispatcher.event_types for h in self.dispatcher.handlers_of(t))
        return [handler.gate.why for handler in handlers if handler.gate.why]

    def is_carried(self, topic: str) -> bool:
        """Whether a topic, as on the cluster, is read by flows, not by Faust's own agents."""
        return topic in self.carried

    async def prepare(self) -> None:
        """Check that everything is there and build the pipelines. Raises OperatingError with the cause and the cure."""
        self.dispatcher.check()
        _check_house(self)
        needed = self.topics_needed()
        kafka, timeout_s = self.settings.kafka, self.settings.worker.startup_timeout_s
        there = await partitions_of(kafka, needed, timeout_s)
        if missing := sorted(needed.keys() - there.keys()):
            raise ConfigError(f"missing topics: {', '.join(missing)}; create them with `faust -A app topics apply`")
        await prepare_state_topics(
            kafka, {s.state_topic: there[s.topic_name] for s in self.subscriptions.values() if s.state_topic},
            self.settings.state.tombstones_h, timeout_s,
        )  # fmt: skip
        await prepare_topics_back(
            kafka, {b: there[s.topic_name] for s in self.subscriptions.values() for b in self.topics_back(s)},
            self.settings.dead_letter.retention_h, timeout_s,
        )  # fmt: skip
        self.folder.lock()
        self.holdings = self._holdings()
        for subscription in self.subscriptions.values():
            subscription.topic.topics = [subscription.topic_name, *self.topics_back(subscription)]
            self.carried.update(subscription.topic.topics)
            letters = self.dead_letter_topic(subscription)
            self.pipelines[subscription.topic_name] = self._pipeline(subscription, there[letters])

    def _holdings(self) -> Holdings:
        state = self.settings.state
        reader = LogReader(lambda: log_consumer(self.settings.kafka))
        return Holdings(
            remembered={
                s.topic_name: Remembered(s.state_topic, s.dedupe_back, s.tables, s.held)
                for s in self.subscriptions.values()
            },
            folder=self.folder,
            memory=Memory.of(state.cache_mib, state.write_buffer_mib),
            reader=reader,
            sender=self.sender,
            restorer=Restorer(reader, self.sender, state.tombstones_h),
            group_bytes=state.group_bytes,
            retention_h=state.retention_h,
            probe=self._note_step,
            is_fenced=self.fencing,
        )

    def _pipeline(self, subscription: Subscription, letter_partitions: int) -> Pipeline:
        settings = self.settings.dead_letter
        return Pipeline(
            types=EventTypes(subscription.name, self._types_of(subscription)),
            dispatcher=self.dispatcher,
            dedupe=subscription.options.dedupe,
            dedupe_back=subscription.dedupe_back,
            counts=subscription.counts,
            on_unknown_type=subscription.options.on_unknown_type,
            order=subscription.options.order,
            failing=Failing(
                topic=subscription.topic_name,
                letters=DeadLetters(
                    self.dead_letter_topic(subscription), letter_partitions, self.group, self.settings.worker.version,
                ),
                counts=subscription.counts,
                flood=Gate(
                    Breaker(settings.flood_run, 1, settings.flood_ratio, settings.flood_window_s, settings.flood_run),
                    subscription.topic_name, "too many events fail for good:", "no further dead letter is written",
                ),
                on_dead_letter=subscription.options.on_dead_letter,
                sequence_max=settings.sequence_max,
                on_sequence_full=settings.on_sequence_full,
            ),
            topics_back=tuple(self.topics_back(subscription)),
        )  # fmt: skip

    def _note_step(self, step: str) -> None:
        self.probe(step)  # which agents set after this app was built

    # What Faust calls.

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def on_start(self) -> None:
        """Connect our producer before anything can be handled."""
        await super().on_start()
        await self.sender.start()
        settle_in()

    async def on_stop(self) -> None:
        """Finish and commit what is in hand before Faust takes its consumer down. After a crash, wait for nothing."""
        if self._consumer is not None and self.pipelines and not self.crash_reason:
            self._consumer.stop_flow()
            self.is_drained = await cast(Any, self._consumer).drain()
        await super().on_stop()
        await self.intake.crew.stop()
        if self.pipelines:
            await self.holdings.release()
        await self.sender.stop()

    async def fail(self, error: Exception) -> None:
        """End the worker with 70: going on would break a promise."""
        if not isinstance(error, OperatingError):
            error = InvariantError(f"a bug of ours, the worker must not go on: {error!r}")
        self.fault = self.fault or error
        await self.crash(error)

    def discover(self, *extra_modules: str, **_: Any) -> None:
        """Import every module of `agents`, in the order of their names. A broken one stops the start.

        Faust would scan the whole origin package, in no fixed order, and skip what fails to import with a warning.
        """
        for name in (*agent_modules(), *extra_modules):
            importlib.import_module(name)


def agent_modules() -> Iterator[str]:
    """The names of the package `agents` and of every module in it."""
    if str(ROOT) not in sys.path:  # the `faust` script has the working folder there only while it imports `-A app`
        sys.path.insert(0, str(ROOT))
    yield "agents"
    for module in pkgutil.walk_packages([str(ROOT / "agents")], "agents."):
        yield module.name


def _limits(settings: Settings) -> Limits:
    """What one partition may hold and have at work."""
    worker = settings.worker
    return Limits(
        lanes=worker.partition_concurrency or worker.concurrency,
        records=worker.queue_records,
        bytes=worker.queue_bytes,
        chunk=settings.kafka.consumer_config.max_poll_records,
        linger_s=settings.state.linger_ms / 1000,
    )


def _topic_of(event_type: type[Event]) -> str:
    return str(cast(Any, event_type).__topic__)  # Any: models are known by shape


def _check_house(app: Famulus) -> None:
    for event_type in app.dispatcher.event_types:
        if _topic_of(event_type) not in app.subscriptions:
            raise ConfigError(
                f"handlers take {event_type.__name__} of topic {_topic_of(event_type)}, which no subscription reads: "
                f'app.subscription("{_topic_of(event_type)}") in agents/'
            )
    poll_s = app.settings.kafka.consumer_config.max_poll_interval_ms / 1000
    for handler in (h for t in app.dispatcher.event_types for h in app.dispatcher.handlers_of(t)):
        if handler.policy.retry.total_s > poll_s:
            raise ConfigError(
                f"handler {handler.name} may wait {handler.policy.retry.total_s:g} s for its attempts, longer than "
                f"Kafka.ConsumerConfig.MaxPollIntervalMs ({poll_s:g} s): fewer attempts, shorter waits, or retry_topics"
            )
        topic = app.subscriptions[_topic_of(handler.event_type)]
        if handler.policy.delays_s and topic.options.on_dead_letter == "sequence":
            raise ConfigError(
                f"handler {handler.name} has retry_topics, which give up the order, and topic {topic.name} has "
                'on_dead_letter="sequence", which keeps it: choose one'
            )
    for subscription in app.subscriptions.values():
        _check_delays(app, subscription)
        if not subscription.has_agent:
            raise ConfigError(f"nobody reads topic {subscription.name}: give its subscription an agent in agents/")


def _check_delays(app: Famulus, subscription: Subscription) -> None:
    """All that wait in one retry topic wait equally long, else the first one would hold up the others."""
    waits: dict[int, tuple[float, str]] = {}
    for handler in app.handlers_of(subscription):
        for number, delay_s in enumerate(handler.policy.delays_s, 1):
            other_s, other = waits.setdefault(number, (delay_s, handler.name))
            if other_s != delay_s:
                raise ConfigError(
                    f"the retry topic {number} of {subscription.name} would have waits of {other_s:g} s ({other}) and "
                    f"of {delay_s:g} s ({handler.name}): all handlers of a topic share its retry topics"
                )


plain_logs()
app = Famulus(load_settings())
