"""Tests that no log line quotes an error text with an event: logs, asyncio and threads."""

import asyncio
import gc
import logging
import threading
from collections.abc import Callable

import pytest
import structlog
from aiokafka.errors import KafkaConnectionError

from famulus.errors import ConfigError, DecodeError
from famulus.formatting import text_of
from famulus.observability.logs import described, plain_logs, trace_of
from famulus.observability.unhandled_errors import TOLD_MAX, Leaks, watch_leaks

EVENT = "O'Brien, 7 Main Street"


class SpeechlessError(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise SystemExit(7)

    __repr__ = __str__


class Sly(str):
    """A str whose methods fail."""

    __slots__ = ()

    def lower(self) -> str:
        """Raise RuntimeError."""
        raise RuntimeError


class SlyError(Exception):
    """An error whose text fails later."""

    def __str__(self) -> str:
        return Sly("sly")


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return *error* with a traceback."""
    try:
        raise error from cause  # raised for its traceback
    except BaseException as caught:  # also SystemExit and its like
        return caught


def quoting() -> list[BaseException]:
    """Return an error of each built-in class that takes a text, with the event in it."""
    found: list[BaseException] = []
    left: list[type[BaseException]] = [BaseException]
    while left:
        kind = left.pop()
        left += [
            kind
            for kind in kind.__subclasses__()
            if kind.__module__ in {"builtins", "asyncio.exceptions"}
        ]
        try:
            found.append(kind(f"{EVENT!r} {EVENT}"))
        except TypeError:
            continue
    decoding = UnicodeDecodeError("utf-8", EVENT.encode(), 0, 1, EVENT)
    noted = ValueError(EVENT)
    noted.add_note(EVENT)
    return [
        *found,
        decoding,
        noted,
        ExceptionGroup(EVENT, [ValueError(EVENT), noted]),
        KeyError(EVENT),
        OSError(EVENT),
        BaseExceptionGroup(EVENT, [SystemExit(EVENT)]),
        SyntaxError(EVENT, (EVENT, 1, 1, EVENT)),
        OSError(2, EVENT, EVENT),
        SystemExit(EVENT),
    ]


@pytest.fixture(autouse=True)
def _logs() -> None:
    plain_logs()


@pytest.mark.parametrize("error", quoting(), ids=lambda error: type(error).__name__)
def test_no_error_of_python_is_quoted(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is a cause, an argument or a traceback, of the engine's loggers or a library's."""
    for made in (raised(error), raised(ValueError(EVENT), error)):
        assert "O'Brien" not in described(made) + trace_of(made)
        assert type(made).__name__ in described(made)
        for name in (
            "famulus.processing.task_pool",
            "faust.app",
            "mode.worker",
            "asyncio",
            "aiokafka.consumer",
        ):
            logging.getLogger(name).error("crashed: %r", made, exc_info=made)
            logging.getLogger(name).error("crashed: %(error)s", {"error": made})
        structlog.get_logger("app").error("crashed", exc_info=made)
    assert "O'Brien" not in caplog.text
    assert "Traceback" in caplog.text
    assert type(error).__name__ in caplog.text


def test_what_quotes_nothing_is_said() -> None:
    """Texts of the engine, of Kafka and of the system are shown."""
    assert described(ConfigError("set it")) == "ConfigError: set it"
    assert described(DecodeError("$.a", "expected int")) == "DecodeError: $.a: expected int"
    assert described(KafkaConnectionError("no route")) == "KafkaConnectionError: no route"
    assert (
        described(OSError(28, "No space left on device", "x"))
        == "OSError: [Errno 28] No space left on device"
    )
    assert (
        described(raised(ValueError("x")))
        == f"ValueError at {__name__}:{raised.__code__.co_firstlineno + 3}"
    )


def test_what_handlers_log_by_loggers_of_their_own_is_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A team may want the text in its own logs."""
    logging.getLogger("agents.orders").error("it broke", exc_info=raised(ValueError("of theirs")))
    assert "ValueError: of theirs" in caplog.text


def test_an_error_without_a_text_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """The text may raise SystemExit, which would end the process."""
    assert text_of(SpeechlessError()) == "SpeechlessError (its text cannot be made)"
    assert text_of(SlyError()).lower() == "sly"
    assert described(raised(SpeechlessError())).startswith("SpeechlessError at ")
    logging.getLogger("app").error(
        "crashed: %r", SpeechlessError(), exc_info=raised(SpeechlessError())
    )
    assert "SpeechlessError" in caplog.text


async def leaking() -> None:
    """Fail as a task."""
    raise ValueError(EVENT)


def calling(event: str) -> None:
    """Fail as a callback or a thread."""
    raise ValueError(event)


async def in_task() -> None:
    """Leave a failed task alone; its name quotes the event too."""
    task = asyncio.create_task(leaking(), name=EVENT)
    await asyncio.wait([task])


async def in_future() -> None:
    """Leave a failed future alone."""
    asyncio.get_running_loop().create_future().set_exception(ValueError(EVENT))


async def in_callback() -> None:
    """Call a failing callback with the event as its argument."""
    asyncio.get_running_loop().call_soon(calling, EVENT)


async def in_thread() -> None:
    """Run a thread that fails."""
    thread = threading.Thread(target=calling, args=(EVENT,))
    thread.start()
    thread.join()


async def in_generator() -> None:
    """Delete an object whose finalizer fails."""

    class Deleted:
        def __del__(self) -> None:
            raise ValueError(EVENT)

    Deleted()


@pytest.mark.parametrize(
    ("leak", "says"),
    [
        (in_task, "Task exception was never retrieved error=ValueError at"),
        (in_future, "Future exception was never"),
        (in_callback, "Exception in callback error=ValueError"),
        (in_thread, "an error ended a thread error=Value"),
        (in_generator, "an error that could not be raised error=ValueError"),
    ],
)
def test_errors_that_nobody_waits_for_are_told_without_their_texts(
    leak: Callable[[], object],
    says: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line has type and place of the error."""
    monkeypatch.setattr("sys.unraisablehook", None)  # monkeypatch restores both afterwards
    monkeypatch.setattr("threading.excepthook", None)

    async def run() -> None:
        watch_leaks(asyncio.get_running_loop())
        await leak()  # type: ignore[misc]  # each is a coroutine function
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert says in caplog.text
    assert "O'Brien" not in caplog.text
    if leak is not in_future:
        assert "where=" in caplog.text


def test_a_flood_of_them_is_told_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    """The errors left out are counted."""
    leaks = Leaks()
    for _ in range(1_000):
        leaks.tell("it broke", ValueError(EVENT), "here")
    assert len(caplog.records) == TOLD_MAX
    leaks._since_s = float("-inf")
    leaks.tell("it broke", None, "here")
    assert "not_told_before=990" in caplog.text
