"""One source topic as users declare it: its tables, how its events are recognised, what is counted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter
from typing import Any, TypeVar

from faust import Record as Event

from app.engine.dispatch import OnUnknownType
from app.engine.failing import OnDeadLetter, Order
from app.errors import ConfigError
from app.observe.metrics import Counts
from app.state.dedupe import DEFAULT_WINDOW, Dedupe, Identity
from app.state.partition import Partition
from app.state.tables import Table

K = TypeVar("K")
V = TypeVar("V")
MS = timedelta(milliseconds=1)
Windows = timedelta | Mapping[type[Event], timedelta]


@dataclass(frozen=True, slots=True)
class Options:
    """How a topic is read, see `Famulus.subscription`."""

    on_unknown_type: OnUnknownType
    order: Order
    dedupe: Dedupe | None
    on_dead_letter: OnDeadLetter


class Subscription:
    """One source topic. Made by `app.subscription`, read by one agent.

    *topic* is Faust's, *names_taken* has the tables of all subscriptions, *state_topic* is where it would remember.
    """

    def __init__(
        self, name: str, topic: Any, options: Options, names_taken: dict[str, "Subscription"], state_topic: str
    ) -> None:
        self.name = name
        self.topic = topic
        self.options = options
        self.counts = Counts()
        self.tables: dict[str, Table[Any, Any]] = {}
        self.held: dict[int, Partition] = {}  # this worker's partitions
        self.has_agent = False
        self._names_taken = names_taken
        self._state_topic = state_topic

    @property
    def topic_name(self) -> str:
        """The topic's name on the cluster."""
        return str(self.topic.topics[0])  # Faust's topic reads those as well through which records come back

    @property
    def state_topic(self) -> str | None:
        """The state changelog's name on the cluster, None for a subscription that remembers nothing."""
        remembers = self.tables or self.options.dedupe is not None or self.options.on_dead_letter == "sequence"
        return self._state_topic if remembers else None

    @property
    def dedupe_back(self) -> Dedupe | None:
        """How records that come back are recognised: they are, whatever was said about those that come first."""
        return self.options.dedupe or (Dedupe(DEFAULT_WINDOW // MS) if self.state_topic is not None else None)

    def Table(  # noqa: N802  # Faust users know it by this name
        self,
        name: str,
        *,
        key: type[K],
        value: type[V],
        default: Callable[[], V] | None = None,
        help: str = "",  # noqa: A002
    ) -> Table[K, V]:
        """A table that handlers of this topic may change. Raises ConfigError when the name is taken."""
        if name in self._names_taken:
            raise ConfigError(f"table {name!r} is declared twice: a table belongs to one subscription")
        if not name or "\0" in name:
            raise ConfigError(f"table name {name!r}: at least one character, and no zero byte")
        self._names_taken[name] = self
        table = Table(name, key, value, default, self.held, help, self.topic_name)
        self.tables[name] = table
        return table


def dedupe_of(default_s: float, window: Windows | None, identity: str | Identity | None) -> Dedupe:
    """How events are recognised. *window* may differ by event type; *identity* is a field's name or a function."""
    if isinstance(identity, str):
        identity = attrgetter(identity)
    windows = window if isinstance(window, Mapping) else {}
    usual = window if isinstance(window, timedelta) else timedelta(seconds=default_s)
    for length in (usual, *windows.values()):
        if length < MS:
            raise ConfigError(f"a dedupe window of {length}: it must be positive; dedupe=False turns it off")
    return Dedupe(usual // MS, {event_type: length // MS for event_type, length in windows.items()}, identity)
