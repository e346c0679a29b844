"""A canary in every secret of the tests, and the hooks that look for it in all that a run of tests has written.

Secrets of tests contain `CANARY`. After the run each log below its temporary folder is read, and of
each test what was captured of it: whatever says the canary fails the run, whichever test it was
that had it said.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

CANARY = "canary-2b7e151628aed2a6"  # the same in every process of a run
_found: list[str] = []


def secret(name: str) -> str:
    """A secret of a test. It has the length and the characters of a token."""
    return f"{CANARY}-{name}"


def leaks(text: str, where: str) -> list[str]:
    """Which lines of *text* say the canary, without saying it again."""
    return [
        f"{where}, line {number}: {line.replace(CANARY, '<canary>').strip()[:300]}"
        for number, line in enumerate(text.splitlines(), 1)
        if CANARY in line
    ]


def leaks_below(folder: Path) -> Iterator[str]:
    """The leaks in every log below *folder*.

    What RocksDB calls so, beside its file CURRENT, is state.
    """
    for log in sorted(folder.rglob("*.log")):
        if log.is_file() and not log.with_name("CURRENT").exists():
            yield from leaks(log.read_text("utf-8", "replace"), str(log.relative_to(folder)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Look at what was captured of a test."""
    for title, text in report.sections:
        _found.extend(leaks(text, f"{report.nodeid}, {title}"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Look at the logs, and fail the run when a secret was written anywhere."""
    # Pytest's own.
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    _found.extend(leaks_below(factory.getbasetemp()))
    if _found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where."""
    if _found:
        terminalreporter.section("secrets were written", red=True)
        for line in _found:
            terminalreporter.write_line(line)
