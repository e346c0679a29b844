"""Faust's app, ours: what users declare, what a worker needs before it starts, what Faust calls."""

import asyncio
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast, get_args

import faust
import svcs
from aiokafka.errors import InvalidTimestampError
from faust import Record as Event
from faust.types import TP, AgentT

from famulus.condition_watches import may_grow, needs_of, stamp_of, watch_of
from famulus.config import Settings, load_settings
from famulus.consumer.agent_stream import Deliveries
from famulus.consumer.assignment import AssignedPartitions
from famulus.consumer.faust_recovery import Tables
from famulus.consumer.hold_ups import HoldUpNotes
from famulus.consumer.membership import Membership
from famulus.consumer.seek_executor import SeekExecutor
from famulus.consumer.transport import Transport
from famulus.consumer.watchdog import Watchdog
from famulus.control.admin_topic import AdminLog
from famulus.deadletter.record import DeadLetters
from famulus.deadletter.topics import dead_letter_topic, redrive_topic, retry_topic
from famulus.declarations import Declaration, shown
from famulus.errors import ConfigError, InvariantError, OperatingError
from famulus.formatting import text_of
from famulus.kafka.admin import look_for
from famulus.kafka.client_errors import fault_of
from famulus.kafka.decompression import set_limit
from famulus.kafka.partition_health import PartitionHealths
from famulus.observability.consumed import Callback, Consumers, note_consumed
from famulus.observability.history import History
from famulus.observability.log_rate import calm_libraries
from famulus.observability.logs import described, plain_logs
from famulus.observability.tracing import tracing_of
from famulus.processing.failure_policy import OnDeadLetter, Order
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import (
    Dispatcher,
    Handler,
    OnUnknownType,
    check_event_type,
    handler_for,
)
from famulus.processing.payload_redeeming import PayloadRedeemer
from famulus.processing.pipeline import Pipeline
from famulus.processing.subscription import Options, Subscription, Windows, dedupe_of
from famulus.processing.telemetry_pipeline import Tell, with_telemetry
from famulus.processing.traced_pipeline import traced
from famulus.producer.event_bus import EventBus
from famulus.producer.fallback_delivery import deliver
from famulus.producer.payload_store import PayloadStore
from famulus.producer.producer import Producer
from famulus.producer.scheduler import Scheduler
from famulus.runtime.broker_clock import Clock
from famulus.runtime.faust_options import faust_options, rebalance_timeout_s
from famulus.runtime.own_topics import (
    grow_own_topics,
    make_own_topics,
    readable_retired,
    retired_retry_topics,
)
from famulus.runtime.topic_watch import Topics
from famulus.runtime.tuning import many_files, settle_in
from famulus.runtime.worker_process import Worker
from famulus.state.checkpointer import Probe
from famulus.state.dedupe import Identity
from famulus.state.rocksdb_store import StateFolder
from famulus.state.unit_of_work import current_attempt
from famulus.validation import validate_handlers
from famulus.webserver.auth import WebAuth
from famulus.webserver.connections import limits_of as connection_limits
from famulus.webserver.server import GuardedWeb
from famulus.wiring import build_pipeline, build_state_manager, handlers_of, limits_of, policy_of

T = TypeVar("T", bound=Callable[..., Any])
C = TypeVar("C", bound=Callback)
# They stand above the app, which knows their names alone.
FACES = "famulus.web.routes", "famulus.cli.discovery"


class Famulus(faust.App):
    """Faust's app on this engine: subscriptions, handlers, services, start-up checks."""

    def __init__(self, settings: Settings, folder: Path | None = None) -> None:
        """Build the app of the project in *folder*: the working folder unless set."""
        kafka, worker = settings.kafka, settings.worker
        self.settings = settings
        self.project_folder = folder or Path.cwd()
        set_limit(kafka.consumer_config.max_unpacked_bytes)
        self.drain_timeout_s = worker.drain_timeout_s
        self.stop_timeout_s = worker.stop_timeout_s
        self.on_commit_ahead = settings.state.on_commit_ahead
        self.subscriptions: dict[str, Subscription] = {}
        self.pipelines: dict[str, Pipeline] = {}
        self.managed_topics: set[str] = set()  # topics that flows read, as on the cluster
        self.probe: Probe = lambda _: None  # told each step of settling, for tests that die there
        self.fencing = True  # off only to show in a test what it is good for
        # Called once agents may have set providers of OpenTelemetry.
        self.exports: list[Callable[[], None]] = []
        self.has_started = False  # whether the first assignment is restored
        self.is_drained = True
        self.is_draining = False  # whether somebody has asked for the end over the web
        self.fault: OperatingError | None = None
        # Of this worker's partitions, looked at whenever its metrics are read.
        self.standings = PartitionHealths[TP]()
        self.services = svcs.Registry()
        self.consumers = Consumers()
        self.door = WebAuth(worker)
        self.history = History()  # what the console's charts show
        self.claims = PayloadStore(settings.claim_check)
        self.payload_redeemer = PayloadRedeemer(self.claims)
        self.sender = Producer(kafka, self.claims)
        self.bus = EventBus(self.sender, current_attempt)
        self.scheduler = Scheduler(kafka, self.sender, self.fail) if kafka.schedule_max_h else None
        self.dispatcher = Dispatcher(self.services, self.bus)
        self.clock = Clock(
            stamp_of(self.sender, kafka.consumer_config.group_id), worker.clock_skew_s
        )
        self.folder = StateFolder(Path(worker.data_dir) / "state")
        self.timeouts_s: dict[str, float] = {}  # by handler
        self._table_names: dict[str, Subscription] = {}
        # Retry topics that no handler sends to any more, by source.
        self._retired: dict[str, list[str]] = {}
        self.assigned = AssignedPartitions(
            limits_of(settings),
            worker.concurrency,
            self.timeouts_s,
            may_write=lambda: cast(Any, self._consumer).is_member(),
            publish=partial(deliver, self.sender),
            on_fault=self.fail,
            probe=self._note_step,
            now_ms=self.clock.now_ms,
        )
        self.watchdog = Watchdog(
            self.assigned,
            lambda tp: cast(Any, self._consumer).unfetched(tp),
            self._is_at_work,
            on_fault=self.fail,
            stalled_s=worker.stall_timeout_s,
            ends_s=worker.stall_exit_s,
            send_s=kafka.producer_config.delivery_timeout_ms / 1000,
        )
        self.membership = Membership(
            kafka,
            lambda: cast(Any, self._consumer),
            lambda: self.should_stop,
            on_fault=self.fail,
            patience_s=worker.startup_timeout_s,
            ends_s=worker.stall_exit_s,
            rebalance_s=rebalance_timeout_s(settings),
        )
        self.admin_log = AdminLog(kafka, self.assigned.control_state, self._heed, self.fail)
        self.seek_executor = SeekExecutor(
            self.assigned.control_state.seeks,
            self.admin_log,
            self.sender,
            kafka.consumer_config.group_id,
        )
        self.holdups = HoldUpNotes(
            self.assigned.control_state.holdups,
            self.sender,
            kafka.consumer_config.group_id,
            lambda: cast(Any, self._consumer).has_place(),
        )
        self.assigned.task_pool.on_held = self.holdups.note
        super().__init__(
            kafka.consumer_config.group_id,
            Stream=Deliveries,
            TableManager=Tables,
            Worker=Worker,
            **faust_options(settings),
            web_application_options=self.door.options,
        )

    @classmethod
    def from_project(cls, folder: Path) -> Self:
        """Make the app of the project in *folder*, with its settings, web routes and commands.

        Raises ConfigError with one line that names every wrong setting.
        """
        plain_logs()
        calm_libraries()
        app = cls(load_settings(), folder)
        for face in FACES:
            importlib.import_module(face).register(app)
        return app

    # What users say.

    def subscription(  # each has a default
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
        """Declare a subscription of *topic*, which owns tables and is read by one agent.

        *on_unknown_type* decides about a record whose type has no handler here: `ignore` counts and
        skips it, since other teams may write to a shared topic; `dead_letter` makes it a dead
        letter; `fail` ends the worker. *order* is kept per record `key`, where records without a
        key are independent, or for the whole `partition`. With *dedupe* false an event that arrives
        twice takes effect twice. Otherwise it is recognised for *dedupe_window*
        (`State.DedupeWindowS` unless set), which may be a mapping by event type, by its id, or by
        *identity*: a field of the event, or a function of it. *on_dead_letter* decides about the
        events behind a dead letter: `skip` continues with them; `sequence` parks those of its key
        behind it, in order, until it is redriven or dropped; `halt` writes no dead letter and
        starts nothing more of the partition.

        Raises ConfigError for options that make no sense, and for a second subscription of a topic.
        """
        declared = Declaration(f"app.subscription({shown(topic)})")
        declared.topic("topic", topic)
        declared.choice("on_unknown_type", on_unknown_type, get_args(OnUnknownType))
        declared.choice("order", order, get_args(Order))
        declared.choice("on_dead_letter", on_dead_letter, get_args(OnDeadLetter))
        declared.flag("dedupe", dedupe)
        if topic in self.subscriptions:
            raise ConfigError(
                f"topic {topic} has two subscriptions; one agent reads a topic, its handlers "
                "share it"
            )
        remembered = dedupe_of(
            self.settings.state.dedupe_window_s, dedupe_window, identity, declared
        )
        if not dedupe and (dedupe_window is not None or identity is not None):
            raise declared.error("dedupe=False leaves nothing for dedupe_window or identity to do")
        options = Options(on_unknown_type, order, remembered if dedupe else None, on_dead_letter)
        kafka = self.settings.kafka
        source = self.topic(
            kafka.topic(topic),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )
        group = kafka.consumer_config.group_id
        # A test's prefix stands before everything; the group has it already.
        state_topic = f"{group}-{topic}-state"
        self.subscriptions[topic] = Subscription(
            topic, source, options, self._table_names, state_topic
        )
        return self.subscriptions[topic]

    def agent(
        self, channel: Any = None, **options: Any
    ) -> Callable[[Callable[..., Any]], AgentT[Any]]:
        """Faust's agent decorator; takes a subscription as well."""
        if isinstance(channel, Subscription):
            channel.has_agent = True
            channel = channel.topic
        return super().agent(channel, **options)

    def handles(  # each has a default
        self,
        event_type: type[Event],
        *,
        retry: Retry = Retry(),  # frozen
        transient: type[Exception] | tuple[type[Exception], ...] = (),
        permanent: type[Exception] | tuple[type[Exception], ...] = (),
        retry_topics: Sequence[str | float] = (),
        timeout_s: float | None = None,
        breaker: Breaker = Breaker(),  # frozen
        name: str = "",
        own_services: bool = False,
    ) -> Callable[[T], T]:
        """Make a function, or a class with a method `handle`, a handler of *event_type*.

        The error that it raises decides about the event. `TransientError`, one of *transient*, or a
        failed connection is tried again as *retry* says. `PermanentError`, `Reject` or one of
        *permanent* makes a dead letter at once. `Failures.Unclassified` decides about any other. An
        attempt may take *timeout_s* seconds (`Failures.HandlerTimeoutS` unless set, 0 is no limit).

        With *retry_topics*, such as `["1m", "10m", "1h"]`, an event that has used up its attempts
        leaves its lane for topics of this group, with one more attempt after each wait; later
        events of its key overtake it. *breaker* has the limits at which a resource of the handler
        counts as unavailable: then its events wait. `Kafka.MessageTypes` overrides all of these for
        a type.

        *name* identifies the handler in headers, metrics and the ids of the events that it
        publishes; the default is its module and its own name, and two handlers of one name are
        refused. The handlers of an event share services, which are made for each attempt and closed
        after it; with *own_services* each call of this handler has services of its own. A returned
        value is ignored, but work is not: an awaitable is awaited, and an awaitable or a generator
        from an async function is a failure.

        Raises ConfigError for a wrong option, and for an object that cannot be a handler.
        """
        declared = Declaration("@handles")
        check_event_type(event_type, declared)
        declared.of = f"@handles({event_type.__name__})"
        declared.kind("retry", retry, Retry)
        declared.kind("breaker", breaker, Breaker)
        if timeout_s is not None:
            declared.number("timeout_s", timeout_s)
        if name != "":
            declared.name("name", name)
        asked = Policy(
            retry, declared.errors("transient", transient), declared.errors("permanent", permanent)
        )
        policy = policy_of(self.settings, event_type, asked, retry_topics, timeout_s)
        limit_s = policy.timeout_s

        def register(target: T) -> T:
            handler = handler_for(
                event_type, target, policy, breaker, name, own_services=own_services
            )
            self.dispatcher.add(handler)
            if limit_s:
                self.timeouts_s[handler.name] = limit_s
            return target

        return register

    def on_consumed(self, callback: C) -> C:
        """Call a plain function with an `app.Consumed` for each message that was consumed.

        The call comes when the message's handlers have ended, before its effects are settled: after
        a crash there may be a second call for the same message. The function runs between two
        events, so it must be quick. Its errors are counted and logged, and change nothing for the
        event. Usable as a decorator in `agents/`. Raises ConfigError for anything but a plain
        function of one argument.
        """
        self.consumers.add(callback)
        return callback

    def event_type(self, namespace: str) -> type[Event]:
        """Return the handled event type whose name on the wire is *namespace*.

        Raises KeyError if there is none.
        """
        return {str(t._options.namespace): t for t in self.dispatcher.event_types}[namespace]

    # What the worker needs before it starts.

    def topics_needed(self) -> dict[str, int]:
        """Return the topics that must exist, by cluster name, with the partitions to create.

        These are the topics of subscriptions, and those that plain agents read, except for those
        that Faust creates itself.
        """
        names = [
            name
            for s in self.subscriptions.values()
            for name in (s.topic_name, self.dead_letter_topic(s))
        ]
        return self._plain_topics() | dict.fromkeys(names, self.settings.kafka.partitions)

    def _plain_topics(self) -> dict[str, int]:
        """Return the topics that plain agents read, with their partitions."""
        ours = {id(subscription.topic) for subscription in self.subscriptions.values()}
        channels = [cast(Any, agent.channel) for agent in self.agents.values()]
        return {
            name: channel.partitions or self.settings.kafka.partitions
            for channel in channels
            if isinstance(channel, faust.Topic) and not channel.internal and id(channel) not in ours
            for name in channel.topics
        }

    def dead_letter_topic(self, subscription: Subscription) -> str:
        """Return the cluster name of the dead letter topic of *subscription*."""
        group = self.group if self.settings.dead_letter.per_group else ""
        return dead_letter_topic(subscription.topic_name, group)

    def redrive_topic(self, subscription: Subscription) -> str:
        """Through which dead letters come back to this group, as named on the cluster."""
        return redrive_topic(subscription.topic_name, self.group)

    def redelivery_topics(self, subscription: Subscription) -> list[str]:
        """Return the cluster names of the retry topics and the redrive topic of a subscription."""
        topic = subscription.topic_name
        stages = range(self._stages_of(subscription))
        retries = (
            *(retry_topic(topic, self.group, n + 1) for n in stages),
            *self._retired.get(topic, ()),
        )
        return [redrive_topic(topic, self.group), *retries]

    def _stages_of(self, subscription: Subscription) -> int:
        """Return how many retry topics the handlers of a subscription use."""
        return max(
            (len(handler.policy.delays_s) for handler in self.handlers_of(subscription)), default=0
        )

    async def find_retired(self) -> dict[str, dict[str, int]]:
        """Find the retry topics that no handler uses any more, by source, with their partitions.

        `redelivery_topics` includes them from now on. Raises UnavailableError.
        """
        stages = {s.topic_name: self._stages_of(s) for s in self.subscriptions.values()}
        retired = await retired_retry_topics(self.settings, stages)
        self._retired = {source: list(of) for source, of in retired.items()}
        return retired

    def handlers_of(self, subscription: Subscription) -> list[Handler]:
        """Every handler of events of one topic."""
        return handlers_of(subscription, self.dispatcher)

    @property
    def group(self) -> str:
        """The consumer group of every worker of this app."""
        return self.settings.kafka.consumer_config.group_id

    @property
    def state_topics(self) -> set[str]:
        """The state changelogs of all subscriptions."""
        return {s.state_topic for s in self.subscriptions.values() if s.state_topic is not None}

    def is_managed(self, topic: str) -> bool:
        """Return True if a topic, by its cluster name, is read by a subscription."""
        return topic in self.managed_topics

    async def prepare(self) -> None:
        """Check that everything is there and build the pipelines.

        Raises OperatingError with the cause and the cure.
        """
        kafka, timeout_s = self.settings.kafka, self.settings.worker.startup_timeout_s
        self.dispatcher.check()
        validate_handlers(self.subscriptions, self.dispatcher, kafka)
        # Agents may have set a provider.
        self.bus.tracing = tracing_of(self.settings.worker.tracing, kafka)
        for export in self.exports:
            export()
        needed = self.topics_needed()
        there = await look_for(kafka, needed, timeout_s)
        if missing := sorted(needed.keys() - there.keys()):
            raise ConfigError(
                f"missing topics: {', '.join(missing)}; create them with `faust -A app "
                "topics apply`"
            )
        subscriptions = self.subscriptions.values()
        self._retired = await readable_retired(self.settings, await self.find_retired(), there)
        await make_own_topics(
            self.settings,
            states={s.state_topic: there[s.topic_name] for s in subscriptions if s.state_topic},
            may_grow={s.state_topic for s in subscriptions if s.state_topic and may_grow(s)},
            back={
                topic: there[s.topic_name]
                for s in subscriptions
                for topic in self.redelivery_topics(s)
            },
            scheduled=self.scheduler.topic if self.scheduler is not None else None,
        )
        self.topics_watched = Topics(
            needs_of(subscriptions, self.dead_letter_topic, self.redelivery_topics, self._retired),
            there,
            self.sender.counts,
            grow=partial(grow_own_topics, self.settings),
            refresh=lambda: cast(Any, self._consumer).look_anew(),
            folder=str(self.folder.path),
        )
        self.watch = watch_of(
            self.settings,
            self.topics_watched,
            self.clock,
            self.fail,
            is_same=self._is_same,
            uncarried=self.uncarried,
            partitions=lambda: len(self.state_manager.held),
        )
        many_files(sum(there[s.topic_name] for s in subscriptions))
        self.folder.lock()
        self.state_manager = build_state_manager(
            self.settings,
            subscriptions,
            self.folder,
            self.sender,
            self._note_step,
            is_fenced=self.fencing,
        )
        tells: list[Tell] = [self.consumers.tell] if self.consumers.is_any else []
        if self.settings.worker.log_consumed:
            tells.append(note_consumed)
        for subscription in subscriptions:
            subscription.topic.topics = [
                subscription.topic_name,
                *self.redelivery_topics(subscription),
            ]
            self.managed_topics.update(subscription.topic.topics)
            letters = self.dead_letter_topic(subscription)
            pipeline = build_pipeline(
                self.settings,
                subscription,
                self.dispatcher,
                letters=DeadLetters(
                    letters,
                    there[letters],
                    self.group,
                    self.settings.worker.version,
                    partial(self.state_manager.source_ids, subscription.topic_name),
                ),
                payload_redeemer=self.payload_redeemer,
                redelivery_topics=self.redelivery_topics(subscription),
                now_ms=self.clock.now_ms,
            )
            self.pipelines[subscription.topic_name] = with_telemetry(
                traced(pipeline, self.bus.tracing), tells
            )

    def uncarried(self) -> list[str]:
        """Return a line for each topic whose agent does not carry its events."""
        if (self.should_stop and self.fault is None) or not self.has_started:
            return []
        return [
            f"nothing of topic {s.topic_name} is handled, its agent {self._agent_of(s)} does "
            "not carry: "
            "all that it does has to be `await deliveries.carry()`"
            for s in self.subscriptions.values()
            if not self.assigned.carrying[s.topic_name]
        ]

    def _agent_of(self, subscription: Subscription) -> str:
        agents = self.agents.items()
        return next(
            (
                name
                for name, of in agents
                if subscription.topic_name in cast(Any, of.channel).topics
            ),
            "",
        )

    async def _is_same(self) -> None:
        """Raise ConfigError when a topic was replaced by another one of its name."""
        if self._is_at_work():
            await cast(Any, self._consumer).look_at_topics()

    def _heed(self) -> None:
        """Operators have told the group something."""
        self.assigned.heed()
        if self._consumer is not None and not self.should_stop:
            cast(Any, self._consumer).heed_seeks()

    def _note_step(self, step: str) -> None:
        self.probe(step)  # which agents set after this app was built

    # What Faust calls.

    def _new_web(self) -> GuardedWeb:
        return GuardedWeb(self, connection_limits(self.settings.worker))

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    def _is_at_work(self) -> bool:
        """Return True if partitions are assigned and restored, and Kafka hears of this worker."""
        if self._consumer is None or self.rebalancing or self.should_stop:
            return False
        consumer: Any = self._consumer
        return bool(consumer.flow_active and consumer.is_member())

    async def on_start(self) -> None:
        """Connect our producer before anything can be handled."""
        await super().on_start()
        starting = [
            self.admin_log.start(self.settings.worker.startup_timeout_s),
            self.sender.start(),
        ]
        if self.scheduler is not None:
            starting.append(self.scheduler.start())
        await asyncio.gather(*starting)
        self.watchdog.start()
        self.membership.start()
        self.holdups.start()
        await self.clock.measure()
        self.watch.start()
        settle_in()

    async def on_stop(self) -> None:
        """Finish and commit the events in flight before Faust stops its consumer.

        After a crash nothing is awaited.
        """
        self.watchdog.stop()
        self.watch.stop()
        if self._consumer is not None and self.pipelines and not self.crash_reason:
            self._consumer.stop_flow()
            self.is_drained = await cast(Any, self._consumer).drain()
        await super().on_stop()
        self.membership.stop()
        await self.assigned.task_pool.stop()
        if self.pipelines:
            await self.state_manager.release()
        if self.scheduler is not None:
            await self.scheduler.stop()
        await self.admin_log.stop()
        await self.bus.stop_requests()

    async def on_shutdown(self) -> None:
        """Disconnect our producer behind Faust's, which sends through it until it ends."""
        await self.sender.stop()
        await super().on_shutdown()

    async def fail(self, error: Exception) -> None:
        """End the worker with the exit code of *error*; with 70 for a bug of the engine."""
        fault = fault_of(error) or InvariantError(
            f"a bug of ours, the worker must not go on: {described(error)}"
        )
        if isinstance(error, InvalidTimestampError) and self.clock.words:
            fault = type(fault)(f"{self.clock.words}: {fault.message}")
        self.fault = self.fault or fault
        await self.crash(fault)

    def discover(self, *extra_modules: str, **_: Any) -> None:
        """Import every module of `agents`, in the order of their names.

        A broken one stops the start.

        Faust would scan the whole origin package, in no fixed order, and skip what fails to import
        with a warning. A subscription without an agent gets one. Raises ConfigError that names the
        place: starting again would not help.
        """
        try:
            for name in (*agent_modules(self.project_folder), *extra_modules):
                importlib.import_module(name)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{place_in_project(error, self.project_folder)}: {type(error).__name__}: "
                f"{text_of(error)}"
            ) from error
        for subscription in self.subscriptions.values():
            if not subscription.has_agent:
                self.agent(subscription, name=subscription.name)(_carry)


async def _carry(deliveries: Deliveries) -> None:
    """Have the events of a subscription handled: what every agent of one does."""
    await deliveries.carry()


def place_in_project(error: Exception, root: Path) -> str:
    """Say in which file and line of the agents and models under *root* an import failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = reversed(traceback.extract_tb(error.__traceback__))
    own = (root / "agents", root / "models")
    place = next(
        (
            frame
            for frame in frames
            if any(Path(frame.filename).is_relative_to(folder) for folder in own)
        ),
        None,
    )
    return (
        f"{place.filename}:{place.lineno}" if place is not None else "the agents cannot be imported"
    )


def agent_modules(folder: Path) -> Iterator[str]:
    """Name the package `agents` of the project in *folder*, and every module in it."""
    # The `faust` script has the working folder there only while it imports `-A app`.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    yield "agents"
    for module in pkgutil.walk_packages([str(folder / "agents")], "agents."):
        yield module.name
