"""Subscriptions: source topics as users declare them, with tables and deduplication."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Literal, TypeVar, get_args, get_origin
from uuid import UUID

import msgspec
from faust import Record as Event

from famulus.declarations import Declaration, shown
from famulus.observability.metrics import Counts
from famulus.processing.failure_policy import OnDeadLetter, Order
from famulus.processing.handlers import OnUnknownType
from famulus.state.dedupe import DEFAULT_WINDOW, Dedupe, FieldIdentity, Identity
from famulus.state.partition_state import PartitionState
from famulus.state.tables import Table

K = TypeVar("K")
V = TypeVar("V")
MS = timedelta(milliseconds=1)
TABLE_NAME_BYTES = 200
Windows = timedelta | Mapping[type[Event], timedelta]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a subscription, see `Famulus.subscription`."""

    on_unknown_type: OnUnknownType
    order: Order
    dedupe: Dedupe | None
    on_dead_letter: OnDeadLetter


class Subscription:
    """One source topic, made by `app.subscription` and read by one agent.

    *topic* is the topic object of Faust. *names_taken* has the tables of all subscriptions.
    *state_topic* is the name of the state changelog, if the subscription has state.
    """

    def __init__(
        self,
        name: str,
        topic: Any,
        options: Options,
        names_taken: dict[str, "Subscription"],
        state_topic: str,
    ) -> None:
        self.name = name
        self.topic = topic
        self.options = options
        self.counts = Counts()
        self.tables: dict[str, Table[Any, Any]] = {}
        self.held: dict[int, PartitionState] = {}  # of the partitions assigned to this worker
        self.has_agent = False
        self._names_taken = names_taken
        self._state_topic = state_topic

    @property
    def topic_name(self) -> str:
        """Return the name of the topic on the cluster."""
        # Faust's topic also has the retry and redrive topics, behind the source.
        return str(self.topic.topics[0])

    @property
    def state_topic(self) -> str | None:
        """Return the name of the state changelog on the cluster.

        None for a subscription without state.
        """
        remembers = (
            self.tables
            or self.options.dedupe is not None
            or self.options.on_dead_letter == "sequence"
        )
        return self._state_topic if remembers else None

    @property
    def dedupe_redelivered(self) -> Dedupe | None:
        """Return the deduplication of redelivered records.

        Redeliveries are deduplicated even if the subscription turns deduplication off, provided
        that it has state. None without state.
        """
        return self.options.dedupe or (
            Dedupe(DEFAULT_WINDOW // MS) if self.state_topic is not None else None
        )

    def Table(  # noqa: N802  # Faust users know it by this name
        self,
        name: str,
        *,
        key: type[K],
        value: type[V],
        default: Callable[[], V] | None = None,
        help: str = "",
    ) -> Table[K, V]:
        """Declare a table that handlers of this topic may change.

        Raises ConfigError for a name that is taken, and for wrong options.
        """
        declared = Declaration(f"{self.name}.Table({shown(name)})")
        declared.printable("name", name, TABLE_NAME_BYTES)
        if name in self._names_taken:
            raise declared.error("it is declared twice: a table belongs to one subscription")
        declared.text("help", help)
        table = declared_table(
            declared,
            name,
            key,
            value=value,
            default=default,
            held=self.held,
            help=help,
            topic=self.topic_name,
        )
        self._names_taken[name] = self
        self.tables[name] = table
        return table


def dedupe_of(
    default_s: float, window: Windows | None, identity: str | Identity | None, declared: Declaration
) -> Dedupe:
    """Return the deduplication that a subscription's options ask for.

    *window* may be a mapping by event type; other types have *default_s* seconds. *identity* is the
    name of a field or a function of the event.

    Raises ConfigError when one of them is wrong.
    """
    named: Any = identity  # unchecked
    if isinstance(identity, str):
        if not all(part.isidentifier() for part in identity.split(".")):
            raise declared.wrong(
                "identity", "the name of a field, or a function of the event", identity
            )
        identity = FieldIdentity(identity)
    elif named is not None and not _is_plain_function(named):
        raise declared.wrong(
            "identity", "the name of a field, or a plain function of the event", named
        )
    said: Any = window  # unchecked
    if not (said is None or isinstance(said, (timedelta, Mapping))):
        wanted = "a timedelta, such as timedelta(days=7), or a mapping from event types to such"
        raise declared.wrong("dedupe_window", wanted, said)
    windows: Mapping[Any, Any] = said if isinstance(said, Mapping) else {}
    for event_type, length in windows.items():
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise declared.error(
                f"dedupe_window maps classes of events to timedeltas, and has {shown(event_type)}"
            )
        if not isinstance(length, timedelta):
            raise declared.wrong(f"dedupe_window of {event_type.__name__}", "a timedelta", length)
    usual = window if isinstance(window, timedelta) else timedelta(seconds=default_s)
    for length in (usual, *windows.values()):
        if length < MS:
            raise declared.error(
                f"a dedupe window of {length}: it must be positive; dedupe=False turns it off"
            )
    return Dedupe(
        usual // MS, {event_type: length // MS for event_type, length in windows.items()}, identity
    )


def _is_plain_function(given: Any) -> bool:  # Any: unchecked
    if not callable(given) or inspect.isclass(given):
        return False
    return not any(
        check(given) for check in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)
    )


def declared_table(
    declared: Declaration,
    name: str,
    key: type[K],
    *,
    value: type[V],
    default: Callable[[], V] | None,
    held: Mapping[int, PartitionState],
    help: str,
    topic: str,
) -> Table[K, V]:
    """Make a table of the subscription to *topic*.

    Raises ConfigError when values of its types could not be read back, or when *default* does not
    make a value of its type.
    """
    types: dict[str, Any] = {"key": key, "value": value}  # unchecked
    for option, given in types.items():
        if not (isinstance(given, type) or get_origin(given)):
            raise declared.wrong(option, "a type", given)
        if (strange := _strange_in(given)) is not None:
            raise declared.error(
                f"{option} has the type {strange.__name__}, which could not be read again"
            )
    if (
        len(get_args(key)) > 1
        and {str, UUID, datetime, date} & set(get_args(key))
        and get_origin(key) is not tuple
    ):
        raise declared.error(
            "key must be of one type: a text that looks like a number would be read as one"
        )
    if default is not None and not callable(default):
        raise declared.error(
            f"default must be a function without parameters, not {shown(default)}; write "
            "`lambda: ...`"
        )
    try:
        table = Table(name, key, value, default=default, held=held, help=help, topic=topic)
    except (TypeError, ValueError, AttributeError) as error:
        raise declared.error(
            f"key or value is of a type that cannot be kept: {' '.join(str(error).split())}"
        ) from None
    _check_default(declared, table, default)
    return table


def _strange_in(of: Any) -> type | None:  # Any: a type of any kind
    """Find a class in a type that cannot be read back from JSON."""
    for argument in get_args(of) if get_origin(of) is not Literal else ():
        if argument is not Ellipsis and (found := _strange_in(argument)) is not None:
            return found
    if not isinstance(of, type) or get_origin(of) or issubclass(of, Event):
        return None
    return of if isinstance(msgspec.inspect.type_info(of), msgspec.inspect.CustomType) else None


def _check_default(
    declared: Declaration, table: Table[K, V], default: Callable[[], V] | None
) -> None:
    if default is None:
        return
    try:
        made = default()
    except NameError:  # a name that it uses may be defined further down in its module
        return
    except Exception as error:  # a user's function may raise anything
        raise declared.error(
            f"default raised {type(error).__name__}: it is called without arguments"
        ) from None
    if inspect.isawaitable(made) or inspect.isgenerator(made):
        raise declared.error(f"default made a {type(made).__name__}: it must be a plain function")
    try:
        table.check(made)
    except Exception:  # any error means that the value is wrong
        raise declared.error(
            f"default made {shown(made)}, which its value type cannot be: such a row could not "
            "be read again"
        ) from None
