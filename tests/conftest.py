"""What holds for every test, in each of pytest-xdist's processes and in the one that gathers what they say."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.integration.canary import (  # noqa: F401  # hooks: pytest finds them here
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the broker of the tests is to come from."""
    parser.addoption("--kafka-image", help="run against a Kafka in a container of this image, by testcontainers")


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What spans end in, with a provider of the test's own."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter
