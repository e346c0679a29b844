"""Tests of postponed vulnerabilities: each has a reason and an expiry date."""

from datetime import date
from pathlib import Path

import pytest

from famulus.dev.audit import ignored, knows_faults
from famulus.errors import ConfigError
from tests.support.places import ROOT

TODAY = date(2026, 11, 25)
GOOD = 'id = "PYSEC-2026-1"\nreason = "not used"\nexpires = 2026-11-26\n'


def written(folder: Path, *entries: str) -> Path:
    """Write a file with *entries*."""
    file = folder / "audit.toml"
    file.write_text("".join(f"[[ignore]]\n{entry}" for entry in entries))
    return file


def test_a_fault_is_put_off_until_the_day_before(tmp_path: Path) -> None:
    """The exception ends at the start of its expiry date."""
    file = written(tmp_path, GOOD)
    assert ignored(file, TODAY) == ["PYSEC-2026-1"]
    with pytest.raises(ConfigError, match="PYSEC-2026-1 was put off until 2026-11-26"):
        ignored(file, date(2026, 11, 26))


@pytest.mark.parametrize("lacking", ["id", "reason", "expires"])
def test_an_exception_has_all_three(tmp_path: Path, lacking: str) -> None:
    lines = [line for line in GOOD.splitlines(keepends=True) if not line.startswith(lacking)]
    with pytest.raises(ConfigError, match="needs an id, a reason, and a day"):
        ignored(written(tmp_path, "".join(lines)), TODAY)


def test_what_is_no_toml_is_one_line(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(ConfigError, match=r"audit\.toml cannot be read"):
        ignored(written(tmp_path, "id is what"), TODAY)


def test_the_project_has_a_list_that_can_be_read() -> None:
    """The date is in the past: only `make audit` reports expired exceptions."""
    ignored(ROOT / "deploy" / "audit.toml", date(2000, 1, 1))


@pytest.mark.parametrize(
    ("report", "knows"),
    [
        (
            (
                '{"dependencies": [{"name": "jinja2", "version": "2.4.1", "vulns": [{"id": '
                '"PYSEC-2014-8"}]}]}'
            ),
            True,
        ),
        ('{"dependencies": [{"name": "jinja2", "version": "2.4.1", "vulns": []}]}', False),
        ('{"dependencies": [{"name": "jinja2", "skip_reason": "not found"}]}', False),
        ("", False),
    ],
)
def test_a_database_that_knows_nothing_is_none(report: str, *, knows: bool) -> None:
    """A mirror of the package index may have no vulnerability data, and would pass everything."""
    assert knows_faults(report) is knows
