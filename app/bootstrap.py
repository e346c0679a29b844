"""The only place that builds objects and joins them: settings, producer, bus, dispatcher, pipelines, Faust's app."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import faust
import svcs
from faust import Record as Event
from faust.types import AgentT

from app.config import Settings, load_settings
from app.deadletter.record import dead_letter_topic
from app.engine.dispatch import Dispatcher, EventTypes, OnUnknownType, handler_for
from app.engine.flow import Limits
from app.engine.intake import Intake
from app.engine.pipeline import Order, Pipeline
from app.engine.process import Worker
from app.engine.retry import Retry
from app.engine.transport import Deliveries, Tables, Transport
from app.errors import ConfigError, InvariantError, OperatingError
from app.observe.health import partitions_of
from app.observe.metrics import Counts
from app.publish.bus import EventBus
from app.publish.producer import Producer
from app.state.dedupe import Dedupe
from app.state.tables import Table
from app.state.unit import current_unit

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T", bound=Callable[..., Any])
ROOT = Path(__file__).resolve().parent.parent


class Subscription:
    """One source topic: its tables, its marks, its counts. Made by `app.subscription`, read by one agent."""

    def __init__(
        self, app: "Famulus", name: str, on_unknown_type: OnUnknownType, order: Order, *, dedupe: bool
    ) -> None:
        self._app = app
        self.name = name
        self.on_unknown_type = on_unknown_type
        self.order = order
        self.topic = app.topic(app.settings.kafka.topic(name), key_type=bytes, value_type=bytes,
                               key_serializer="raw", value_serializer="raw")  # fmt: skip
        self.counts = Counts()
        self.tables: dict[str, Table[Any, Any]] = {}
        self.has_agent = False
        self.marks: Table[str, str] | None = (
            self.Table(f"{name}-seen", key=str, value=str, help="Ids of the events handled.") if dedupe else None
        )

    @property
    def topic_name(self) -> str:
        """The topic's name on the cluster."""
        return str(self.topic.get_topic_name())

    def Table(  # noqa: N802  # Faust users know it by this name
        self,
        name: str,
        *,
        key: type[K],
        value: type[V],
        default: Callable[[], V] | None = None,
        help: str = "",  # noqa: A002
    ) -> Table[K, V]:
        """A table that handlers of this topic may change. Raises ValueError when the name is taken."""
        if name in self._app.tables:
            raise ValueError(f"table {name!r} is declared twice")
        storage = self._app.Table(
            name, key_type=bytes, value_type=bytes, help=help or f"Rows by {key.__name__} of {self.name}."
        )
        table = Table(cast("faust.Table[Any, Any]", storage), key, value, default)
        self.tables[name] = table
        return table


class Famulus(faust.App):
    """Faust's app with our data path: subscriptions, handlers, services, and a start that checks first."""

    def __init__(self, settings: Settings) -> None:
        kafka, worker = settings.kafka, settings.worker
        consumer = kafka.consumer_config
        self.settings = settings
        self.fetch_max_wait_ms = consumer.fetch_max_wait_ms
        self.poll_pause_s = consumer.poll_pause_ms / 1000
        self.drain_timeout_s = worker.drain_timeout_s
        self.stop_timeout_s = worker.stop_timeout_s
        self.subscriptions: dict[str, Subscription] = {}
        self.pipelines: dict[str, Pipeline] = {}
        lanes = worker.partition_concurrency or worker.concurrency
        self.intake = Intake(
            Limits(lanes, worker.queue_records, worker.queue_bytes, consumer.max_poll_records),
            worker.concurrency,
            may_write=lambda: cast(Any, self._consumer).is_member(),
            on_fault=self.fail,
        )
        self.is_drained = True
        self.services = svcs.Registry()
        self.sender = Producer(kafka)
        self.bus = EventBus(self.sender, current_unit)
        self.dispatcher = Dispatcher(self.services, self.bus)
        super().__init__(
            consumer.group_id,
            broker=[f"kafka://{address.strip()}" for address in kafka.bootstrap_servers.split(",")],
            origin="app",
            autodiscover=True,
            store="rocksdb://",
            datadir=worker.data_dir,
            Stream=Deliveries,
            TableManager=Tables,
            Worker=Worker,
            broker_commit_interval=worker.commit_interval_s,
            broker_session_timeout=consumer.session_timeout_ms / 1000,
            broker_heartbeat_interval=consumer.heartbeat_interval_ms / 1000,
            broker_max_poll_interval=consumer.max_poll_interval_ms / 1000,
            broker_max_poll_records=consumer.max_poll_records,
            consumer_max_fetch_size=consumer.max_partition_fetch_bytes,
            consumer_auto_offset_reset=consumer.auto_offset_reset,
            producer_request_timeout=kafka.producer_config.delivery_timeout_ms / 1000,
            topic_replication_factor=kafka.replication_factor,
            topic_partitions=kafka.partitions,
            topic_disable_leader=True,
            table_standby_replicas=0,
            web_bind=worker.web_bind,
            web_port=worker.web_port,
            web_tables_enabled=False,  # our own views answer for tables
            web_router_enabled=False,
        )

    # What users say.

    def subscription(
        self, topic: str, *, on_unknown_type: OnUnknownType = "ignore", order: Order = "key", dedupe: bool = True
    ) -> Subscription:
        """Read *topic*: declares its tables' home and the source of one agent.

        *on_unknown_type* says what becomes of a record whose type has no handler here: other teams may write to a
        shared topic, so it is counted and left alone unless you say `dead_letter`, or `fail`, which ends the worker.
        *order* is kept per record key, records without one being free of each other, or for the whole `partition`.
        *dedupe* false takes every record for a new event: an event that comes twice takes effect twice.
        """
        if topic in self.subscriptions:
            raise ConfigError(f"topic {topic} has two subscriptions; one agent reads a topic, its handlers share it")
        self.subscriptions[topic] = Subscription(self, topic, on_unknown_type, order, dedupe=dedupe)
        return self.subscriptions[topic]

    def agent(self, channel: Any = None, **options: Any) -> Callable[[Callable[..., Any]], AgentT[Any]]:
        """Faust's agent decorator; takes a subscription as well."""
        if isinstance(channel, Subscription):
            channel.has_agent = True
            channel = channel.topic
        return super().agent(channel, **options)

    def handles(self, event_type: type[Event], *, retry: Retry = Retry()) -> Callable[[T], T]:  # noqa: B008  # frozen
        """Make a function, or a class with a method `handle`, a handler of *event_type*."""

        def register(target: T) -> T:
            self.dispatcher.add(handler_for(event_type, target, retry))
            return target

        return register

    def event_type(self, namespace: str) -> type[Event]:
        """The handled event type that is called *namespace* on the wire. Raises KeyError when there is none."""
        return {str(t._options.namespace): t for t in self.dispatcher.event_types}[namespace]

    # What the worker needs before it starts.

    def topics_needed(self) -> dict[str, int]:
        """The topics that must exist, as named on the cluster, each with the partitions it would be created with."""
        names = [subscription.topic_name for subscription in self.subscriptions.values()]
        return {name: self.settings.kafka.partitions for topic in names for name in (topic, dead_letter_topic(topic))}

    async def prepare(self) -> None:
        """Check that everything is there and build the pipelines. Raises OperatingError with the cause and the cure."""
        self.dispatcher.check()
        _check_house(self)
        needed = self.topics_needed()
        there = await partitions_of(self.settings.kafka, needed, self.settings.worker.startup_timeout_s)
        if missing := sorted(needed.keys() - there.keys()):
            raise ConfigError(f"missing topics: {', '.join(missing)}; create them with `faust -A app topics apply`")
        for subscription in self.subscriptions.values():
            self.pipelines[subscription.topic_name] = self._pipeline(subscription, there[subscription.topic_name])

    def _pipeline(self, subscription: Subscription, partitions: int) -> Pipeline:
        for table in subscription.tables.values():
            table.storage.partitions = partitions  # a changelog has a partition for each of the source's
        types = [t for t in self.dispatcher.event_types if _topic_of(t) == subscription.name]
        return Pipeline(
            types=EventTypes(subscription.name, types),
            dispatcher=self.dispatcher,
            dedupe=Dedupe(subscription.marks) if subscription.marks is not None else None,
            tables=subscription.tables,
            sender=self.sender,
            counts=subscription.counts,
            on_unknown_type=subscription.on_unknown_type,
            order=subscription.order,
        )

    # What Faust calls.

    def _new_transport(self) -> Transport:
        return Transport(self.conf.broker_consumer, self)

    async def on_start(self) -> None:
        """Connect our producer before anything can be handled."""
        await super().on_start()
        await self.sender.start()

    async def on_stop(self) -> None:
        """Finish and commit what is in hand before Faust takes its consumer down. After a crash, wait for nothing."""
        if self._consumer is not None and self.pipelines and not self.crash_reason:
            self._consumer.stop_flow()
            self.is_drained = await cast(Any, self._consumer).drain()
        await super().on_stop()
        await self.intake.crew.stop()
        await self.sender.stop()

    async def fail(self, error: Exception) -> None:
        """End the worker with 70: going on would break a promise."""
        known = isinstance(error, OperatingError)
        await self.crash(error if known else InvariantError(f"a bug of ours, the worker must not go on: {error!r}"))

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


def _topic_of(event_type: type[Event]) -> str:
    return str(cast(Any, event_type).__topic__)  # Any: models are known by shape


def _check_house(app: Famulus) -> None:
    for event_type in app.dispatcher.event_types:
        if _topic_of(event_type) not in app.subscriptions:
            raise ConfigError(
                f"handlers take {event_type.__name__} of topic {_topic_of(event_type)}, which no subscription reads: "
                f'app.subscription("{_topic_of(event_type)}") in agents/'
            )
    for subscription in app.subscriptions.values():
        if not subscription.has_agent:
            raise ConfigError(f"nobody reads topic {subscription.name}: give its subscription an agent in agents/")


app = Famulus(load_settings())
