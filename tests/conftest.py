"""Fixtures and settings of all tests, in each process of pytest-xdist.

The process that collects the results loads them too.
"""

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from famulus.dev import node
from famulus.observability.logs import plain_logs
from tests.support import fork_server
from tests.support.on_kafka.canary import (  # noqa: F401  # hooks: pytest finds them here
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)

# No deadline: the time of an example depends on the other tests that run on the machine.
settings.register_profile(
    "famulus", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("famulus")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses the broker of the tests."""
    parser.addoption(
        "--kafka-image", help="run against a Kafka in a container of this image, by testcontainers"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Give each process of pytest-xdist its own range of ports.

    Without that, two processes may hand out the same free port at the same time. Processes that
    tests start keep their compiled modules, which saves a third of the start time of each. SIGINT
    gets its default handler back: a shell that starts the tests in the background ignores it.
    """
    # The patch covers processes that `famulus.dev` starts too.
    subprocess.Popen = fork_server.Process  # type: ignore[misc]
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process = getattr(config, "workerinput", None)
    if process is not None:
        number, (low, high) = int(process["workerid"].removeprefix("gw")), node.PORTS
        share = (high - low) // process["workercount"]
        node.PORTS = low + number * share, low + (number + 1) * share


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    """Log as a worker does, also if a test module runs alone and nothing has made an app."""
    plain_logs()


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Return an exporter that collects the spans of this test, with its own tracer provider."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter
