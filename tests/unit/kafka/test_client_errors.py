"""Tests of the errors of the client and the system that end a worker.

Each has a cause and an exit code.
"""

import errno
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka

from famulus.application import Famulus
from famulus.errors import ConfigError, InvariantError, OperatingError
from famulus.kafka.client_errors import MEANINGS, OURS, fault_of
from famulus.runtime.worker_process import Worker


def classes() -> Iterator[tuple[str, type[Exception]]]:
    """Yield each error class of the client with its name."""
    for name, found in sorted(vars(kafka).items()):
        if (
            isinstance(found, type)
            and issubclass(found, Exception)
            and found.__module__ == kafka.__name__
        ):
            yield name, found


@pytest.mark.parametrize("kind", [kind for _, kind in classes()])
def test_every_error_of_the_client_has_a_meaning_or_is_a_bug(kind: type[Exception]) -> None:
    """The test fails for a class that a later version of the client adds, until it has one."""
    assert (kind in OURS) != any(base in MEANINGS for base in kind.__mro__), "in one of the two"
    fault = fault_of(kind())
    if kind in OURS:
        assert fault is None
        return
    assert fault is not None
    assert fault.exit_code in {69, 70, 77, 78}
    assert ": " in fault.message, "a cause and a cure"
    assert kind.__name__ in fault.message
    assert "bug" not in fault.message


CODES = [
    (kafka.KafkaTimeoutError(), 69),
    (kafka.CorrelationIdError(), 69),
    (kafka.InvalidTimestampError(), 78),
    (kafka.UnknownTopicOrPartitionError(), 78),
    (kafka.TopicAuthorizationFailedError("t"), 77),
    (kafka.CorruptRecordException(), 70),
    (OSError(errno.EMFILE, "Too many open files"), 78),
    (OSError(errno.ENOSPC, "No space left on device"), 70),
    (OSError(errno.EROFS, "Read-only file system"), 78),
    (PermissionError(errno.EACCES, "Permission denied"), 78),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 69),
    (TimeoutError(), 69),
    (MemoryError(), 70),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda of: type(of).__name__)
async def test_an_error_ends_the_worker_with_its_code(error: Exception, code: int) -> None:
    """The code tells a supervisor if a restart helps, and the line names no bug."""
    ended: list[Exception] = []

    async def crash(reason: Exception) -> None:
        ended.append(reason)

    app: Any = SimpleNamespace(fault=None, crash=crash, clock=SimpleNamespace(words=""))
    await Famulus.fail(app, error)
    [fault] = ended
    assert isinstance(fault, OperatingError)
    assert fault.exit_code == code
    assert "a bug of ours" not in fault.message


@pytest.mark.parametrize("error", [ValueError("x"), kafka.IllegalStateError("x"), OSError("x")])
async def test_what_nobody_else_brings_about_is_a_bug_of_ours(error: Exception) -> None:
    """The worker ends with 70, and the error names the place where it was raised."""
    ended: list[Exception] = []

    async def crash(reason: Exception) -> None:
        ended.append(reason)

    app: Any = SimpleNamespace(fault=None, crash=crash, clock=SimpleNamespace(words=""))
    await Famulus.fail(app, error)
    assert isinstance(ended[0], InvariantError)
    assert "a bug of ours" in str(ended[0])


async def test_a_time_that_is_refused_says_how_far_the_clock_is_off() -> None:
    """The offset of the clock is known here."""

    async def crash(_: Exception) -> None:
        """End nothing."""

    clock = SimpleNamespace(words="this machine's clock is 7,200 s ahead of the brokers'")
    app: Any = SimpleNamespace(fault=None, crash=crash, clock=clock)
    await Famulus.fail(app, kafka.InvalidTimestampError())
    assert str(app.fault).startswith(
        "this machine's clock is 7,200 s ahead of the brokers': the broker refuses"
    )
    assert app.fault.exit_code == 78


async def test_the_first_fault_is_the_one_that_is_told() -> None:
    """One crash causes others."""

    async def crash(_: Exception) -> None:
        """End nothing."""

    app: Any = SimpleNamespace(fault=None, crash=crash, clock=SimpleNamespace(words=""))
    await Famulus.fail(app, ConfigError("the first"))
    await Famulus.fail(app, kafka.KafkaTimeoutError())
    assert str(app.fault) == "the first"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (kafka.KafkaConnectionError("Unable to bootstrap"), 69),
        (kafka.TopicAuthorizationFailedError("t"), 77),
        (OSError(errno.EADDRINUSE, "Address already in use"), 78),
        (InvariantError("the first"), 70),
        (ValueError("x"), 1),
    ],
    ids=lambda of: type(of).__name__,
)
def test_a_crash_of_a_part_of_faust_ends_with_the_code_of_its_cause(
    capfd: pytest.CaptureFixture[str], reason: Exception, code: int
) -> None:
    """An example is the producer, whose broker becomes unavailable during the start.

    The code makes a supervisor restart the worker.
    """
    worker: Any = object.__new__(Worker)
    worker.app = SimpleNamespace(fault=None, is_drained=True)
    worker._crash_reason = reason
    assert worker._exit_code(SystemExit(1)) == code
    said = capfd.readouterr().err
    assert said.count("\n") == (code != 1)
