"""Tests of checks at declaration: options with wrong values, and objects that are no handlers."""

import contextlib
import functools
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import faust
import pytest

from app import app
from famulus import Event, Part
from famulus.errors import ConfigError, PermanentError
from famulus.processing.failures.circuit_breaker import Breaker
from famulus.processing.failures.retry_policy import Policy, Retry
from famulus.processing.handlers import Dispatcher, EventTypes, handler_for
from famulus.state.dedupe import Dedupe, FieldIdentity, mark_key
from models.stock import StockReserved
from tests.unit.processing.test_handlers import DELIVERY, EVENT, dispatcher, record

NAN, INF = float("nan"), float("inf")
NUMBERS: list[Any] = ["1", -1, NAN, INF, True, None, [1], timedelta(1)]
SUBSCRIPTION: dict[str, list[Any]] = {
    "on_unknown_type": ["ignored", "dead-letter", "", None, 1, True, ["ignore"]],
    "order": ["keys", "KEY", None, 1, ("key",)],
    "on_dead_letter": ["sequenced", "stop", None, True],
    "dedupe": ["yes", 1, None, "False", timedelta(days=1)],
    "dedupe_window": [
        1,
        1.5,
        "7d",
        [timedelta(1)],
        timedelta(0),
        timedelta(-1),
        {StockReserved: 1},
        {"stock": timedelta(1)},
        {StockReserved: timedelta(0)},
        {int: timedelta(1)},
        True,
    ],
    "identity": ["", "no field", "a.", 1, ["order_id"], int, True],
}
HANDLES: dict[str, list[Any]] = {
    "retry": [3, None, "3", Retry, Breaker()],
    "transient": [
        int,
        (int,),
        "ConnectionError",
        ("ConnectionError",),
        [ValueError()],
        BaseException,
        None,
        1,
    ],
    "permanent": [int, (KeyboardInterrupt,), ValueError(), None],
    "retry_topics": ["10m", ["10"], [None], [True], [0], [-1], [NAN], [INF], 5, [["1m"]]],
    "timeout_s": ["1", -1, NAN, INF, True, [1], timedelta(seconds=1)],
    "breaker": [None, 1, Breaker, Retry()],
    "name": [1, None, " ", "a b", "a\n", "é", "x" * 201, "-a"],
}
RETRY: dict[str, list[Any]] = {
    "attempts": [0, 1.5, *NUMBERS],
    "wait_initial_s": NUMBERS,
    "wait_factor": [0.5, *NUMBERS],
    "wait_max_s": NUMBERS,
    "jitter": [1.1, *NUMBERS],
}
BREAKER: dict[str, list[Any]] = {
    "failures": [1.5, *NUMBERS],
    "events": NUMBERS,
    "run": NUMBERS,
    "ratio": [1.1, *NUMBERS],
    "window_s": NUMBERS,
    "wait_initial_s": NUMBERS,
    "wait_max_s": NUMBERS,
}


class Name(str):
    """A subclass of str, which JSON decodes as a plain str."""

    __slots__ = ()


TABLE: dict[str, list[Any]] = {
    "name": ["", "a\0b", "a\nb", "\x1b[31m", "x" * 201, 1, None, "\ud800"],
    "key": [str | int, Path, Name, "str", None, 1, list[Path]],
    "value": [Path, Name, dict[str, Path], object(), "int", None, complex],
    "default": [0, "", [], lambda key: 0, lambda: "x", lambda: None, str, lambda: 1 / 0],
    "help": [1, None, b"x"],
}


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Remove the declarations of a test: all tests share one app."""
    subscriptions, names = dict(app.subscriptions), dict(app._table_names)
    yield
    for now, before in ((app.subscriptions, subscriptions), (app._table_names, names)):
        now.clear()
        now.update(before)


def cases(options: dict[str, list[Any]]) -> pytest.MarkDecorator:
    """Parametrize a test with each option and each of its wrong values."""
    every = [(option, value) for option, values in options.items() for value in values]
    return pytest.mark.parametrize(("option", "value"), every)


def refused(call: Callable[..., object], option: str, *args: Any, **options: Any) -> str:
    """Return the text of the ConfigError: one line that names the option and this file."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **options)
    text = caught.value.format_message()
    assert text.isprintable()
    assert option in text
    assert "tests/unit/test_declarations.py:" in text
    return text


@cases(SUBSCRIPTION)
def test_an_option_of_a_subscription_is_checked(option: str, value: Any) -> None:
    text = refused(
        app.subscription,
        "dedupe window"
        if (isinstance(value, timedelta) and option != "dedupe")
        or (isinstance(value, dict) and timedelta(0) in value.values())
        else option,
        "declared-events",
        **{option: value},
    )
    assert "app.subscription(" in text
    assert "declared-events" not in app.subscriptions


def test_the_nearest_word_is_named() -> None:
    """Typing errors are the most frequent mistake."""
    assert 'did you mean "sequence"?' in refused(
        app.subscription, "on_dead_letter", "t", on_dead_letter="sequense"
    )


@pytest.mark.parametrize(
    "topic", ["", ".", "..", "a b", "a/b", "é", "x" * 250, "a\n", None, 1, b"orders", ["a"]]
)
def test_a_topic_is_one_that_kafka_takes(topic: Any) -> None:
    """The name is checked before a broker is asked."""
    refused(app.subscription, "topic", topic)


@cases(HANDLES)
def test_an_option_of_a_handler_is_checked(option: str, value: Any) -> None:
    if option == "retry_topics":  # the error is about the waits
        with pytest.raises(ConfigError, match="retry_topics"):
            app.handles(StockReserved, retry_topics=value)
        return
    refused(app.handles, option, StockReserved, **{option: value})


@cases(RETRY)
def test_an_option_of_retry_is_checked(option: str, value: Any) -> None:
    """Values of types that cannot be compared with numbers are refused too."""
    refused(Retry, option, **{option: value})


@cases(BREAKER)
def test_an_option_of_breaker_is_checked(option: str, value: Any) -> None:
    refused(Breaker, option, **{option: value})


@cases(TABLE)
def test_an_option_of_a_table_is_checked(option: str, value: Any) -> None:
    """A table whose rows could not be read again is refused."""
    subscription = app.subscription("declared-tables")
    options = {"name": "declared", "key": str, "value": int, option: value}
    refused(subscription.Table, option, options.pop("name"), **options)
    assert "declared" not in subscription.tables


@pytest.mark.parametrize("wrong", [1, "1h", None, timedelta(0), timedelta(-1)])
def test_a_window_is_checked(wrong: Any) -> None:
    """Both lengths must be positive timedeltas."""
    table = app.subscription("declared-windows").Table("windows", key=str, value=int)
    refused(table.tumbling, "window", wrong, expires=timedelta(1))
    if wrong != timedelta(0):
        refused(table.tumbling, "window", timedelta(1), expires=wrong)


class Plain(faust.Record, serializer="json"):
    """A Faust record that is no event."""

    key: str


class Line(Part):
    """A part of an event, which is no event itself."""

    key: str


def function(event: StockReserved) -> None:
    """Do nothing."""


class Group:
    """A class that is no handler."""

    def method(self, event: StockReserved) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "given",
    [
        "x",
        EVENT,
        [StockReserved],
        (StockReserved,),
        None,
        1,
        Plain,
        Line,
        Event,
        function,
        Group,
        int,
        {},
    ],
)
def test_only_a_class_of_events_is_handled(given: Any) -> None:
    """The function itself is given if the parentheses of the decorator are missing."""
    refused(app.handles, "handles", given)


async def _generates(event: StockReserved) -> AsyncIterator[int]:
    yield 1


def _yields(event: StockReserved) -> Iterator[int]:
    yield 1


@functools.wraps(_generates)
async def _wraps(*args: Any, **options: Any) -> Any:
    return _generates(*args, **options)


class Yielding:
    """A class whose `handle` is a generator."""

    async def handle(self, event: StockReserved) -> AsyncIterator[int]:
        """Yield one number; no test runs it."""
        yield 1


class Calling:
    """A class whose instances can be called."""

    def __call__(self, event: StockReserved) -> None:
        """Do nothing."""


def _later(event: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _many(event: StockReserved, *rest: int) -> None: ...
def _any(event: StockReserved, **rest: int) -> None: ...
def _union(event: StockReserved | None) -> None: ...
def _by_place(event: StockReserved, /) -> None: ...


@pytest.mark.parametrize(
    "target",
    [
        _generates,
        _yields,
        _wraps,
        Yielding,
        contextlib.asynccontextmanager(_generates),
        functools.partial(function),
        Calling(),
        Calling,
        Group,
        Group.method,
        Group().method,
        staticmethod(function),
        classmethod(function),  # type: ignore[arg-type]  # the error that is tested
        lambda event: None,
        _later,
        _many,
        _any,
        _union,
        _by_place,
        None,
        "x",
        1,
        functools.lru_cache(function),
    ],
)
def test_what_can_be_no_handler_is_refused(target: Any) -> None:
    """Without the check, the body would never run or each event would fail."""
    with pytest.raises(ConfigError) as caught:
        handler_for(StockReserved, target, Policy())
    assert caught.value.format_message().isprintable()


def _step(station: Dispatcher, name: str = "") -> None:
    async def run(event: StockReserved) -> None: ...

    station.add(handler_for(StockReserved, run, Policy(), name=name))


def test_two_handlers_of_one_name_are_refused() -> None:
    """The error names both places and the remedy."""
    station = dispatcher()
    _step(station)
    with pytest.raises(
        ConfigError,
        match=r"test_declarations\.py:\d+ and tests/unit/test_declarations\.py:\d+\).*name=",
    ) as e:
        _step(station)
    assert "@handles(StockReserved" in str(e.value)
    _step(station, "one")
    _step(station, "two")
    names = [handler.name for handler in station.handlers]
    assert names == ["tests.unit.test_declarations._step.<locals>.run", "one", "two"]
    with pytest.raises(ConfigError, match="two handlers are called one"):
        _step(station, "one")


class Twin(StockReserved, namespace="stock.Twin", topic="stock-events", key="product_id"):
    """A second type with the name of StockReserved on the wire.

    A module that is imported under two names has that effect.
    """


Twin._options.namespace = "stock.StockReserved"


def test_two_types_of_one_name_on_the_wire_are_refused() -> None:
    """Both the dispatcher and the decoder refuse them."""

    def twin(event: Twin) -> None: ...

    station = dispatcher()
    _step(station)
    with pytest.raises(
        ConfigError, match=r"called stock\.StockReserved .*models\.stock\.StockReserved and .*Twin"
    ):
        station.add(handler_for(Twin, twin, Policy()))
    with pytest.raises(ConfigError, match="two event types"):
        EventTypes("stock-events", [StockReserved, Twin])


async def _nobody_awaits(event: StockReserved) -> Any:
    return _nobody_awaits(event) if event else None


async def _returns_generator(event: StockReserved) -> Any:
    return _generates(event)


def _returns_plain_generator(event: StockReserved) -> Any:
    return _yields(event)


@pytest.mark.parametrize("target", [_nobody_awaits, _returns_generator, _returns_plain_generator])
async def test_work_that_is_returned_and_never_run_is_a_failure(target: Any) -> None:
    """Without the error, the event would count as handled although nothing ran."""
    handler = handler_for(StockReserved, target, Policy())
    with pytest.raises(TypeError, match="that nobody runs"):
        await dispatcher().call(handler, EVENT, DELIVERY)


def test_an_identity_belongs_to_its_type_and_none_is_none() -> None:
    """Marks of earlier versions, which had no type in their key, are still found."""
    dedupe = Dedupe(1000, identity=FieldIdentity("product_id"))
    new, old = dedupe.keys_of(EVENT, record())
    # The key in state of earlier versions.
    assert old == b"m\x0e$\xad|n\x8a\xdfO^\xb9F\xbcw\xdf\xc3\x11"
    assert new == mark_key(b"stock.StockReserved\0part-1")
    for nothing in (None, "", b""):
        dedupe = Dedupe(1000, identity=functools.partial(lambda it, _: it, nothing))
        assert dedupe.keys_of(EVENT, record()) == [mark_key(b"stock-events/0/1")]
    assert Dedupe(1000, identity=FieldIdentity("nope")).keys_of(EVENT, record()) == [
        mark_key(b"stock-events/0/1")
    ]


async def _asks_later(event: Event) -> str:
    return "id"


@pytest.mark.parametrize("identity", [lambda event: event.nope, _asks_later, lambda: "id"])
def test_an_identity_that_cannot_be_told_is_a_failure_of_the_event(identity: Any) -> None:
    """The error names the identity and shows no value of the event."""
    with pytest.raises(
        PermanentError, match=r"identity of StockReserved.*(<lambda>|_asks_later)"
    ) as caught:
        Dedupe(1000, identity=identity).keys_of(EVENT, record())
    assert "part-1" not in str(caught.value)


RELOADED = """
from famulus.processing.handlers import handler_for
from famulus.processing.failures.retry_policy import Policy
from models.stock import StockReserved

async def run(event: StockReserved) -> None: ...

station.add(handler_for(StockReserved, run, Policy()))
"""


def test_a_handler_whose_module_is_reloaded_takes_its_own_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that declares the same name twice is refused."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "declared_again.py").write_text(
        "import builtins\nstation = builtins.station\n" + RELOADED
    )
    station = dispatcher()
    monkeypatch.setattr("builtins.station", station, raising=False)
    module = importlib.import_module("declared_again")
    [before] = station.handlers
    importlib.reload(module)
    [after] = station.handlers
    assert (after.name, after is before) == (before.name, False)
    (tmp_path / "declared_twice.py").write_text(
        "import builtins\nstation = builtins.station\n" + RELOADED * 2
    )
    with pytest.raises(ConfigError, match="two handlers"):
        importlib.import_module("declared_twice")


def test_a_default_may_use_what_is_defined_further_down() -> None:
    """The default is called when a row is missing, not when the table is declared."""
    made = app.subscription("further-down").Table(
        "later", key=str, value=int, default=lambda: later
    )
    later = 7
    assert made.get("none") is None
    assert made["none"] == later
