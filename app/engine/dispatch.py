"""Who handles what: the type of a record, the handlers of a type, and what a handler's parameters are filled with.

A handler is a function or a class with a method `handle`. Its parameters are filled by their types: the event, the
`Delivery`, the `EventBus`, anything else from the services, in a scope that is closed after the event.
"""

import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import svcs
from faust import Record as Event

from app.errors import ConfigError, DecodeError
from app.failures.circuit import Breaker
from app.failures.gate import Gate
from app.failures.retry import Policy
from app.publish.bus import EventBus
from app.wire.cloudevents import envelope_in, is_structured
from app.wire.codec import Codec, codec_of
from app.wire.envelope import Delivery, Record, event_type_of
from app.wire.sensitive import hidden, places_of

Parameters = dict[str, type]
BREAKER = Breaker()
_SPEC = b'"specversion"'  # in every envelope of a CloudEvent in structured mode, whose headers may say the same again
_END = b'"}}'  # of a value with Faust's metadata, which it writes last: most values have none and need no search
_BRACE = b"}"[0]
OnUnknownType = Literal["ignore", "dead_letter", "fail"]


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler of one event type. *made_with*: the parameters of a handler class; *called_with*: of its call."""

    name: str
    event_type: type[Event]
    target: Callable[..., Any]  # Any: a user's function or class
    made_with: Parameters | None
    called_with: Parameters
    services: frozenset[type]  # what it asks for beside its event, its delivery and the bus
    wants_delivery: bool
    is_plain: bool  # an async function of nothing but its event, which needs no dispatcher
    policy: Policy
    gate: Gate


def handler_for(
    event_type: type[Event], target: Callable[..., Any], policy: Policy, breaker: Breaker = BREAKER
) -> Handler:
    """The handler that *target* is. Raises ConfigError when it takes no such event or hides a parameter's type."""
    name = f"{target.__module__}.{target.__qualname__}"
    made_with: Parameters | None = None
    call = target
    if inspect.isclass(target):
        call = getattr(target, "handle", None)  # type: ignore[assignment]  # checked in the next line
        if call is None:
            raise ConfigError(f"handler class {name} has no method `handle`")
        made_with = {} if target.__init__ is object.__init__ else _parameters(target.__init__, name)
    called_with = _parameters(call, name)
    if event_type not in called_with.values():
        raise ConfigError(f"handler {name} has no parameter of type {event_type.__name__}")
    wanted = {*(made_with or {}).values(), *called_with.values()}
    services = frozenset(wanted - {event_type, Delivery, EventBus})
    is_plain = inspect.iscoroutinefunction(target) and list(called_with.values()) == [event_type]
    what, cure = "what a handler needs seems to be away:", "its events wait, and use up no attempts"
    gate = Gate(breaker, name, what, cure, policy.timeout_s)
    return Handler(
        name, event_type, target, made_with, called_with, services, Delivery in wanted, is_plain, policy, gate
    )


def _parameters(function: Callable[..., Any], name: str) -> Parameters:
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise ConfigError(f"handler {name}: {error}; its parameters are filled by their types") from None
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    for parameter in parameters:
        if not isinstance(hints.get(parameter.name), type):
            raise ConfigError(f"handler {name}: parameter {parameter.name!r} needs a class as its type to be filled")
    return {parameter.name: hints[parameter.name] for parameter in parameters}


class Dispatcher:
    """The handlers of one worker, and the services that they ask for."""

    def __init__(self, services: svcs.Registry, bus: EventBus) -> None:
        self._services = services
        self._bus = bus
        self.by_type: dict[type[Event], list[Handler]] = {}  # in the order of their registration

    def add(self, handler: Handler) -> None:
        """Register a handler. Several handlers may take one type.

        Raises ConfigError for a type with a field that cannot be decoded.
        """
        try:
            codec_of(handler.event_type)
        except TypeError as error:
            raise ConfigError(f"handler {handler.name}: {error}") from None
        self.by_type.setdefault(handler.event_type, []).append(handler)

    @property
    def event_types(self) -> list[type[Event]]:
        """Every type that has a handler."""
        return list(self.by_type)

    @property
    def handlers(self) -> list[Handler]:
        """Every handler."""
        return [handler for handlers in self.by_type.values() for handler in handlers]

    def check(self) -> None:
        """Raise ConfigError when a handler asks for a service that nobody registered."""
        for handler in self.handlers:
            for wanted in handler.services:
                if wanted not in self._services:
                    raise ConfigError(
                        f"handler {handler.name} asks for {wanted.__qualname__}, which is not registered: "
                        f"app.services.register_factory({wanted.__qualname__}, ...)"
                    )

    async def call(self, handler: Handler, event: Event, delivery: Delivery | None) -> None:
        """Run one handler for one event; *delivery* for one that wants it. Raises what the handler raises."""
        values: dict[type, object] = {handler.event_type: event, Delivery: delivery, EventBus: self._bus}
        if not handler.services:
            await _run(handler, values)
            return
        async with svcs.Container(self._services) as scope:
            for wanted in handler.services:
                values[wanted] = await scope.aget(wanted)
            await _run(handler, values)


async def _run(handler: Handler, values: dict[type, object]) -> None:
    target = handler.target
    if handler.made_with is not None:
        target = target(**{name: values[wanted] for name, wanted in handler.made_with.items()}).handle
    result = target(**{name: values[wanted] for name, wanted in handler.called_with.items()})
    if inspect.isawaitable(result):
        await result


class Sizes(NamedTuple):
    """How large a record may be before it is looked into: bytes of its value, headers of its own."""

    value_bytes: int = 16 * 2**20
    headers: int = 256


class EventTypes:
    """The event types of one topic: finds the type of a record and decodes it.

    The type is named by the `ce_type` header, or the envelope of a CloudEvent in structured mode, else by `__faust.ns`
    in the value (what a plain Faust app writes), else it is the topic's only type. A name is looked up here and nowhere
    else: a sender never chooses a class. What is larger than *sizes* is poison, and is not decoded.
    """

    def __init__(self, topic: str, types: Iterable[type[Event]], sizes: Sizes = Sizes()) -> None:  # noqa: B008  # frozen
        self._topic = topic
        self._value_bytes, self._headers = sizes
        self._codecs: dict[str, Codec[Event]] = {str(t._options.namespace): codec_of(t) for t in types}
        self._hidden = places_of(codec.record_type for codec in self._codecs.values())
        self._only = next(iter(self._codecs.values())) if len(self._codecs) == 1 else None

    def decode(self, record: Record, *, is_redeemed: bool = False) -> Event | None:
        """The event in *record*, or None when its type has no handler here. Raises DecodeError for poison.

        What *is_redeemed* has the store's limit of size.
        """
        value, codec = record.value, self._only
        # Nearly always there is nothing but a value of the topic's only type; looking for more takes a while.
        if (
            codec is None or value is None or record.headers or not 1 < len(value) <= self._value_bytes
            or value[-2] == _BRACE
        ):  # fmt: skip
            return self._decode(record, is_redeemed)
        try:
            return codec.parse(value)
        except Exception:  # noqa: BLE001  # whatever it is: this finds it again, and says it in our words
            return codec.decode(value)

    def _decode(self, record: Record, is_redeemed: bool) -> Event | None:  # noqa: FBT001  # of `decode`
        value, headers, name = record.value, record.headers, None
        if value is not None and len(value) > self._value_bytes and not is_redeemed:
            raise DecodeError("$", f"{len(value)} bytes, Kafka.ConsumerConfig.MaxValueBytes is {self._value_bytes}")
        if headers:
            if len(headers) > self._headers:
                raise DecodeError(
                    "headers", f"{len(headers)} of them, Kafka.ConsumerConfig.MaxHeaders is {self._headers}"
                )
            name = event_type_of(headers)
            if (name is None or (value is not None and _SPEC in value)) and is_structured(record):
                return self._in_envelope(record)
        if name is None and value is not None and value.endswith(_END) and b'"__faust"' in value:
            name = _faust_namespace(value)
        codec = self._only if name is None else self._codecs.get(name)
        if codec is not None:
            return codec.decode(value)
        if name is None:
            raise DecodeError("$", f"no ce_type header, and {self._topic} carries {len(self._codecs)} types")
        return None

    @property
    def hides(self) -> bool:
        """Whether one of the types here calls anything sensitive."""
        return bool(self._hidden)

    def shown(self, value: bytes | None) -> bytes | None:
        """A record's *value* for people: with stars for what one of the types here calls sensitive."""
        return hidden(value, self._hidden)

    def _in_envelope(self, record: Record) -> Event | None:
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
