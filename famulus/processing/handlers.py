"""Handlers: the type of a record, the handlers of a type, and the handlers' parameters.

A handler is a function or a class with a method `handle`. Its parameters are filled by their types:
the event, the `Delivery`, the `EventBus`, and anything else from the services, in a scope that is
closed after the attempt.
"""

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import svcs
from faust import Record as Event

from famulus.declarations import Declaration, Place, calling, place_of, shown
from famulus.errors import ConfigError, DecodeError
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.handler_breaker import HandlerBreaker
from famulus.processing.failures.retry_policy import Policy
from famulus.producer.event_bus import EventBus
from famulus.serialization.cloudevents import envelope_in, is_structured
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ConsumerRecord, Delivery, event_type_of
from famulus.serialization.redaction import hidden, sensitive_paths
from famulus.serialization.serde import JSON, EventCodec, Serde, Serdes

Parameters = dict[str, type]
BREAKER = Breaker()
# Part of every envelope of a CloudEvent in structured mode, which may have a `ce_type` header too.
_SPEC = b'"specversion"'
# The end of a value with Faust's metadata, which Faust writes last. Most values have none, and are
# not searched.
_END = b'"}}'
_BRACE = b"}"[0]
OnUnknownType = Literal["ignore", "dead_letter", "fail"]


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler of one event type.

    *made_with* has the constructor parameters of a handler class, *called_with* those of the call.
    """

    name: str
    event_type: type[Event]
    target: Callable[..., Any]  # Any: a user's function or class
    made_with: Parameters | None
    called_with: Parameters
    services: frozenset[type]  # types of its parameters other than event, delivery and bus
    wants_delivery: bool
    is_plain: bool  # an async function with only the event as parameter: called directly
    policy: Policy
    breaker: HandlerBreaker
    place: Place  # in the code
    # Its services are made for each call, and not shared with other handlers of the event.
    own_services: bool = False


def check_event_type(given: Any, declared: Declaration) -> None:  # Any: unchecked
    """Raise ConfigError unless *given* is an event class that names a topic."""
    if isinstance(given, type) and issubclass(given, Event):
        if not getattr(given, "__topic__", ""):
            raise declared.error(
                f"{given.__name__} is no event, it names no topic; write @handles(TYPE) with "
                "an Event"
            )
        return
    if inspect.isroutine(given) or isinstance(given, type):
        raise declared.error(
            f"write @handles(TYPE) in front of {given.__qualname__}: it says which event it handles"
        )
    hint = f": @handles({type(given).__name__})" if isinstance(given, Event) else ""
    raise declared.error(
        f"it takes one class of events, not {shown(given)}{hint}; a handler for each type"
    )


def handler_for(  # each has a default
    event_type: type[Event],
    target: Callable[..., Any],
    policy: Policy,
    breaker: Breaker = BREAKER,
    name: str = "",
    *,
    own_services: bool = False,
) -> Handler:
    """Make a handler of *target*, called *name* or else by its module and qualified name.

    With *own_services*, each call has services that no other handler of the event shares.

    Raises ConfigError when *target* cannot be a handler, does not take such an event, or has a
    parameter without a usable type.
    """
    call, place = _called(target)
    name = name or f"{target.__module__}.{target.__qualname__}"
    declared = Declaration(f"handler {name}", place)
    _check_call(call, declared)
    made_with: Parameters | None = None
    if inspect.isclass(target):
        made_with = (
            {} if target.__init__ is object.__init__ else _parameters(target.__init__, declared)
        )
    called_with = _parameters(call, declared)
    if event_type not in called_with.values():
        raise declared.error(f"it has no parameter of type {event_type.__name__}")
    is_plain = inspect.iscoroutinefunction(target) and list(called_with.values()) == [event_type]
    if not is_plain and (hidden := _only_by_place(call)):
        raise declared.error(f"parameter {hidden!r} is filled by its name: no `/` behind it")
    wanted = {*(made_with or {}).values(), *called_with.values()}
    services = frozenset(wanted - {event_type, Delivery, EventBus})
    what, cure = "what a handler needs seems to be away:", "its events wait, and use up no attempts"
    return Handler(
        name,
        event_type,
        target,
        made_with,
        called_with,
        services,
        Delivery in wanted,
        is_plain,
        policy,
        HandlerBreaker(breaker, name, what, cure, policy.timeout_s),
        place,
        own_services,
    )


def _called(target: Any) -> tuple[Any, Place]:  # Any: users may decorate anything
    """Return the function of a handler that is called, and its place in the code.

    Raises ConfigError for a target that cannot be a handler.
    """
    code = getattr(inspect.unwrap(target) if callable(target) else target, "__code__", None)
    place = place_of(code.co_filename, code.co_firstlineno) if code is not None else calling()
    declared = Declaration("handles", place)
    if inspect.isclass(target):
        call = inspect.getattr_static(target, "handle", None)
        declared.of = f"handler class {target.__module__}.{target.__qualname__}"
        if call is None:
            raise declared.error("it has no method `handle`")
        call = call.__func__ if isinstance(call, (staticmethod, classmethod)) else call
        if not inspect.isfunction(call):
            raise declared.error("its `handle` is no method")
        of_any_kind: Any = target
        return of_any_kind.handle, place_of(call.__code__.co_filename, call.__code__.co_firstlineno)
    if not inspect.isfunction(target):
        raise declared.error(
            "a handler is a function or a class with a method `handle`, not "
            f"{_KINDS.get(type(target), shown(target))}"
        )
    within, _, own = target.__qualname__.rpartition(".")
    if own == "<lambda>":
        raise declared.error(
            "a lambda cannot be a handler: its parameters have no types; write a function"
        )
    if within and not within.endswith("<locals>"):
        raise declared.error(
            f"{target.__qualname__} is a method: make it a function, or decorate the class, "
            "with a method `handle`"
        )
    return target, place


_KINDS: dict[type, str] = {
    functools.partial: "a partial; write a function that calls it",
    staticmethod: "a staticmethod; decorate a function outside of the class",
    classmethod: "a classmethod; decorate a function outside of the class",
    types.MethodType: "a method of an object; write a function that calls it",
}


def _check_call(call: Any, declared: Declaration) -> None:
    """Raise ConfigError for a generator, also when wrapped: it would never run."""
    for function in (call, inspect.unwrap(call)):
        bare = function
        while isinstance(bare, functools.partial):
            bare = bare.func
        if inspect.isgeneratorfunction(bare) or inspect.isasyncgenfunction(bare):
            raise declared.error(
                "it has a `yield`, so that nobody would run it: publish with the EventBus, "
                "and return"
            )


def _parameters(function: Callable[..., Any], declared: Declaration) -> Parameters:
    try:
        hints = typing.get_type_hints(function)
    except Exception as error:  # annotations are evaluated, and may raise anything
        hint = (
            ", imported at run time and not under TYPE_CHECKING"
            if isinstance(error, NameError)
            else ""
        )
        fault = " ".join(str(error).split())
        raise declared.error(f"{fault}; its parameters are filled by their types{hint}") from None
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise declared.error(
                f"parameter {str(parameter).split(':')[0]!r} cannot be filled: name each one"
            )
        if not isinstance(hints.get(parameter.name), type):
            raise declared.error(
                f"parameter {parameter.name!r} needs a class as its type to be filled"
            )
    return {parameter.name: hints[parameter.name] for parameter in parameters}


def _only_by_place(call: Callable[..., Any]) -> str:
    """Return the name of a positional-only parameter, empty when there is none."""
    parameters = inspect.signature(call).parameters.values()
    return next(
        (p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name != "self"), ""
    )


class Dispatcher:
    """The handlers of one worker, and the services that they ask for."""

    def __init__(self, services: svcs.Registry, bus: EventBus) -> None:
        self._services = services
        self._bus = bus
        self.by_type: dict[type[Event], list[Handler]] = {}  # in the order of their registration
        # Each with the spec of its module, by which a reload is recognized.
        self._by_name: dict[str, tuple[Handler, object]] = {}

    def add(self, handler: Handler) -> None:
        """Register a handler. Several handlers may take one type.

        A handler from a reloaded module replaces its earlier version.

        Raises ConfigError when another handler has the same name, since ids of published events,
        retries and metrics depend on the name. Also raised for two types with the same name on the
        wire, and for a type with a field that cannot be decoded.
        """
        try:
            codec_of(handler.event_type)
        except TypeError as error:
            raise ConfigError(f"handler {handler.name} ({handler.place}): {error}") from None
        # A reload makes another spec.
        module = getattr(sys.modules.get(handler.target.__module__), "__spec__", None)
        earlier = self._by_name.get(handler.name)
        if earlier is not None:
            other, its_module = earlier
            if (
                other.target.__module__ != handler.target.__module__
                or module is None
                or module is its_module
            ):
                raise ConfigError(
                    f"two handlers are called {handler.name} ({other.place} and "
                    f"{handler.place}): give one a name of "
                    f'its own, @handles({handler.event_type.__name__}, name="...")'
                )
            self.by_type[other.event_type].remove(other)
            if not self.by_type[other.event_type]:
                del self.by_type[other.event_type]
        _check_namespaces("", [*self.by_type, handler.event_type])
        self._by_name[handler.name] = handler, module
        self.by_type.setdefault(handler.event_type, []).append(handler)

    @property
    def event_types(self) -> list[type[Event]]:
        """Return every type that has a handler."""
        return list(self.by_type)

    @property
    def handlers(self) -> list[Handler]:
        """Return every handler."""
        return [handler for handlers in self.by_type.values() for handler in handlers]

    @property
    def longest_wait_s(self) -> float:
        """Return the longest wait of any handler between attempts in the lane, in seconds."""
        every = (handler.policy.retry for handler in self.handlers)
        return max((retry.wait_max_s * (1 + retry.jitter) for retry in every), default=0.0)

    def check(self) -> None:
        """Raise ConfigError when a handler asks for a service that is not registered."""
        for handler in self.handlers:
            for wanted in handler.services:
                if wanted not in self._services:
                    raise ConfigError(
                        f"handler {handler.name} asks for {wanted.__qualname__}, which is not "
                        "registered: "
                        f"app.services.register_factory({wanted.__qualname__}, ...)"
                    )

    def scope(self) -> svcs.Container:
        """Return a container of services for one event, each made on first use.

        The caller closes it, see `failure_classification.close_services`.
        """
        return svcs.Container(self._services)

    async def call(
        self,
        handler: Handler,
        event: Event,
        delivery: Delivery | None,
        scope: svcs.Container | None = None,
    ) -> None:
        """Run one handler for one event; *delivery* is for a handler that wants it.

        The services come from *scope*, which the caller closes. Without a scope, or for a handler
        with services of its own, they are made for this call and closed after it.

        Raises what the handler raises.
        """
        values: dict[type, object] = {
            handler.event_type: event,
            Delivery: delivery,
            EventBus: self._bus,
        }
        if not handler.services:
            await _run(handler, values)
            return
        if scope is not None and not handler.own_services:
            await self._run_with(handler, values, scope)
            return
        async with self.scope() as own:
            await self._run_with(handler, values, own)

    @staticmethod
    async def _run_with(
        handler: Handler, values: dict[type, object], scope: svcs.Container
    ) -> None:
        for wanted in handler.services:
            values[wanted] = await scope.aget(wanted)
        await _run(handler, values)


async def _run(handler: Handler, values: dict[type, object]) -> None:
    target = handler.target
    if handler.made_with is not None:
        target = target(
            **{name: values[wanted] for name, wanted in handler.made_with.items()}
        ).handle
    result = target(**{name: values[wanted] for name, wanted in handler.called_with.items()})
    if inspect.isawaitable(result):
        result = await result
    if result is not None:
        refuse(handler, result)


def refuse(handler: Handler, result: object, unawaited: str = "") -> None:
    """Raise TypeError when *handler* left work undone.

    The cause is an awaitable or generator that it returned, or *unawaited*, the name of a coroutine
    that it called without await. Other values that it returned are ignored.
    """
    if inspect.iscoroutine(result):
        result.close()  # else Python warns later that it was never awaited
    if inspect.isawaitable(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            f"handler {handler.name} returned a {type(result).__name__} that nobody runs: await it "
            "in the handler"
        )
    if unawaited:
        raise TypeError(
            f"handler {handler.name} calls {unawaited}(...) and does not await it, so nothing of "
            "it happens"
        )


def _check_namespaces(topic: str, of: Iterable[type[Event]]) -> None:
    """Raise ConfigError for two types of *topic* with the same name on the wire.

    If *topic* is empty, the types of each topic are compared.
    """
    found: dict[tuple[object, str], type[Event]] = {}
    for each in of:
        namespace = str(each._options.namespace)
        other = found.setdefault((topic or getattr(each, "__topic__", ""), namespace), each)
        if other is not each:
            raise ConfigError(
                f"two event types are called {namespace} on the wire: "
                f"{other.__module__}.{other.__qualname__} and "
                f"{each.__module__}.{each.__qualname__}; give one another namespace"
            )


class Sizes(NamedTuple):
    """Limits of a record that is decoded: bytes of its value, and number of headers."""

    value_bytes: int = 16 * 2**20
    headers: int = 256


SIZES = Sizes()


class EventTypes:
    """The event types of one topic: finds the type of a record and decodes it.

    The type is named by the `ce_type` header or by the envelope of a CloudEvent in structured mode,
    else by `__faust.ns` in the value (written by a plain Faust app). Otherwise it is the topic's
    only type. Names are looked up only here, so a sender never chooses a class. A record larger
    than *sizes* is poison, and is not decoded. *formats* are those beside JSON, chosen by the
    record's content type.
    """

    def __init__(
        self,
        topic: str,
        of: Iterable[type[Event]],
        sizes: Sizes = SIZES,  # immutable
        formats: Iterable[Serde] = (),
    ) -> None:
        known = list(of)
        _check_namespaces(topic, known)
        self._topic = topic
        self._value_bytes, self._headers = sizes
        self._serdes = Serdes(formats)
        self._is_json = not self._serdes.has_others
        self._codecs: dict[str, EventCodec[Event]] = {
            str(t._options.namespace): JSON.codec_of(t) for t in known
        }
        self._hidden = sensitive_paths(known)
        self._only = next(iter(self._codecs.values())) if len(self._codecs) == 1 else None
        self.names = tuple(self._codecs)

    def name_of(self, record: ConsumerRecord) -> str:
        """Return the type name of *record* on the wire, with or without a handler.

        Empty if the record names no type, or is too large to be decoded.
        """
        value, headers, name = record.value, record.headers, None
        if len(headers) > self._headers or (value is not None and len(value) > self._value_bytes):
            return ""
        if headers:
            name = event_type_of(headers)
            if (name is None or (value is not None and _SPEC in value)) and is_structured(record):
                try:
                    return envelope_in(record).type
                except DecodeError:
                    return ""
        if name is None and value is not None and value.endswith(_END) and b'"__faust"' in value:
            name = _faust_namespace(value)
        return name or (self.names[0] if self._only is not None else "")

    def decode(self, record: ConsumerRecord, *, is_redeemed: bool = False) -> Event | None:
        """Return the event in *record*, or None when its type has no handler here.

        Raises DecodeError for poison. With *is_redeemed*, the size of the value is not checked,
        since the payload store has a limit of its own.
        """
        value, codec = record.value, self._only
        # Nearly always there is nothing but a value of the topic's only type, which needs no
        # further checks.
        if (
            codec is None
            or value is None
            or record.headers
            or not 1 < len(value) <= self._value_bytes
            or value[-2] == _BRACE
        ):
            return self._decode(record, is_redeemed)
        try:
            return codec.parse(value)
        except Exception:  # raised again by the slower `decode`, as a DecodeError with details
            return codec.decode(value)

    # The general case of `decode`.
    def _decode(self, record: ConsumerRecord, is_redeemed: bool) -> Event | None:
        value, headers, name = record.value, record.headers, None
        if value is not None and len(value) > self._value_bytes and not is_redeemed:
            raise DecodeError(
                "$",
                f"{len(value)} bytes, Kafka.ConsumerConfig.MaxValueBytes is {self._value_bytes}",
            )
        if headers:
            if len(headers) > self._headers:
                raise DecodeError(
                    "headers",
                    f"{len(headers)} of them, Kafka.ConsumerConfig.MaxHeaders is {self._headers}",
                )
            name = event_type_of(headers)
            if (name is None or (value is not None and _SPEC in value)) and is_structured(record):
                return self._in_envelope(record)
        if name is None and value is not None and value.endswith(_END) and b'"__faust"' in value:
            name = _faust_namespace(value)
        codec = self._only if name is None else self._codecs.get(name)
        if codec is not None and not self._is_json:
            codec = self._serdes.of(headers).codec_of(codec.record_type)
        if codec is not None:
            return codec.decode(value)
        if name is None:
            raise DecodeError(
                "$", f"no ce_type header, and {self._topic} carries {len(self._codecs)} types"
            )
        return None

    @property
    def hides(self) -> bool:
        """Return whether one of the types here has sensitive fields."""
        return bool(self._hidden)

    def shown(self, value: bytes | None) -> bytes | None:
        """Return a record's *value* for display, with stars for sensitive fields."""
        return hidden(value, self._hidden)

    def _in_envelope(self, record: ConsumerRecord) -> Event | None:
        envelope = envelope_in(record)
        codec = self._codecs.get(envelope.type)
        if codec is None:
            return None
        payload = envelope.payload()
        try:
            return codec.decode(payload)
        except DecodeError as error:
            raise DecodeError(f"$.data{error.path[1:]}", error.reason) from None


class _Metadata(msgspec.Struct):
    ns: str | None = None


class _WithMetadata(msgspec.Struct):
    metadata: _Metadata | None = msgspec.field(name="__faust", default=None)


_metadata = msgspec.json.Decoder(_WithMetadata)


def _faust_namespace(value: bytes) -> str | None:
    try:
        found = _metadata.decode(value).metadata
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # not JSON, or not such metadata: the codec says what is wrong with it
    return found.ns if found is not None else None
