"""Tests of log lines: one bounded line per event, without control characters."""

import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from famulus.observability.logs import (
    TEXT_CHARACTERS,
    VALUE_CHARACTERS,
    SafeRecord,
    as_line,
    plain_logs,
    safe,
)

NASTY = "a\r\nERROR forged\x1b[2J\x1b]0;title\x07\u202egnp\u2028next\x00\udcff"
unsafe = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """Set up the logs of a worker, and restore them after the test."""
    plain_logs()
    yield
    structlog.reset_defaults()
    plain_logs()  # importing the app did so for all tests


# structlog passes the traceback under the name "exception"; a test below covers it.
names = st.text().filter(lambda name: name != "exception")


@given(
    event=st.text(),
    fields=st.dictionaries(names, st.text() | st.binary() | st.integers() | st.none()),
)
def test_any_event_is_one_line(event: str, fields: dict[str, object]) -> None:
    """Values are escaped and truncated."""
    line = as_line(None, "info", {**fields, "event": event, "key": NASTY * 1000})
    assert "\n" not in line
    assert not unsafe.search(line)
    assert line.isprintable()
    assert len(as_line(None, "info", {"event": "x", "key": "k" * 10**6})) < VALUE_CHARACTERS + 20


@given(text=st.text())
def test_the_lines_of_others_cannot_be_taken_for_events(text: str) -> None:
    """All lines behind the first are indented."""
    record = SafeRecord("faust", logging.INFO, __file__, 1, "%s", (text,), None)
    first, *others = record.getMessage().split("\n")
    assert not unsafe.search(record.getMessage())
    assert all(line.startswith("  ") for line in others)
    assert first.isprintable()


def test_a_traceback_ends_with_what_the_error_says_and_forges_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The traceback of structlog and that of Python's logging show no values of variables."""
    private = "of-a-variable"
    for log in (structlog.get_logger("ours").exception, logging.getLogger("theirs").exception):
        caplog.clear()
        try:
            raise ValueError(NASTY)  # the text is tested
        except ValueError:
            log("it broke")
        assert "Traceback" in caplog.text
        assert not unsafe.search(caplog.text)
        lines = caplog.text.splitlines()
        assert [line for line in lines if "forged" in line]
        assert all(line.startswith(" ") for line in lines[1:])
        assert private not in caplog.text


def test_endless_texts_end() -> None:
    """A key may have a megabyte."""
    assert len(safe("x\n" * 10**6)) < 3 * TEXT_CHARACTERS
