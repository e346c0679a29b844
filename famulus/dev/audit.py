"""`make audit`: known faults of the locked packages, without those that were deferred.

A deferred fault stands in deploy/audit.toml with its reason and an expiry date.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from famulus.errors import ConfigError, UnavailableError

LOCKS = "deploy/requirements.lock", "requirements.lock", "bench/requirements.lock"
KNOWN_BAD = "jinja2==2.4.1"  # with faults that every database has known for years


def ignored(file: Path, today: date) -> list[str]:
    """Return the ids of the faults that *file* defers.

    Raises ConfigError for an entry without id, reason or date, for an expired one, and for a file
    that is not TOML.
    """
    try:
        entries = tomllib.loads(file.read_text("utf-8")).get("ignore", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    ids = []
    for entry in entries:
        name, reason, expires = entry.get("id"), entry.get("reason"), entry.get("expires")
        if not (name and reason and isinstance(expires, date)) or len(entry) != 3:
            raise ConfigError(
                f"{file}: {name or entry} needs an id, a reason, and a day like expires = "
                "2026-12-31"
            )
        if expires <= today:
            raise ConfigError(
                f"{file}: {name} was put off until {expires} ({reason}): look again, then "
                "renew or remove"
            )
        ids.append(str(name))
    return ids


def knows_faults(report: str) -> bool:
    """Return True if pip-audit's JSON *report* on `KNOWN_BAD` names a fault.

    An index may answer without knowing any faults.
    """
    with suppress(ValueError, AttributeError):
        return any(package.get("vulns") for package in json.loads(report)["dependencies"])
    return False


def _look(file: str, *options: str, **run: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", *options, "-r", file]
    return subprocess.run(command, check=False, text=True, **run)  # our own arguments


def check_database() -> None:
    """Raise UnavailableError when no database of faults answers, or it lacks a well-known fault."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(KNOWN_BAD)
        file.flush()
        asked = _look(file.name, "--no-deps", "--format=json", capture_output=True)
    if not knows_faults(asked.stdout):
        raise UnavailableError(
            f"no database of known faults answers (it should know some of {KNOWN_BAD}), so "
            "nothing was looked up: "
            "run this where pip-audit reaches one"
        )


@click.command()
@click.argument("locks", nargs=-1)
def audit(locks: Sequence[str]) -> None:
    """Look for known faults in LOCKS, all lock files unless named.

    Exits 1 for a fault, 69 when no database of faults answers, 78 for an exception gone by.
    """
    ids = ignored(Path("deploy") / "audit.toml", datetime.now(UTC).date())
    options = [option for name in ids for option in ("--ignore-vuln", name)]
    check_database()
    codes = []
    for lock in locks or LOCKS:
        click.echo(lock)
        codes.append(_look(lock, "--strict", "--require-hashes", *options).returncode)
    raise SystemExit(max(codes))


if __name__ == "__main__":
    audit()
