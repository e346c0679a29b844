"""`make audit`: known faults of the locked packages, without those that somebody has looked at and put off.

What is put off stands in deploy/audit.toml with its reason and the day on which it ends, so none is forgotten.
"""

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import click

from app.dev.worker import ROOT
from app.errors import ConfigError

LOCKS = "deploy/requirements.lock", "requirements.lock", "bench/requirements.lock"


def ignored(file: Path, today: date) -> list[str]:
    """The ids of the faults that are put off in *file*.

    Raises ConfigError for one without id, reason or day, for one whose day has come, and for a file that is no TOML.
    """
    try:
        entries = tomllib.loads(file.read_text("utf-8")).get("ignore", [])
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    ids = []
    for entry in entries:
        name, reason, expires = entry.get("id"), entry.get("reason"), entry.get("expires")
        if not (name and reason and isinstance(expires, date)) or len(entry) != 3:
            raise ConfigError(f"{file}: {name or entry} needs an id, a reason, and a day like expires = 2026-12-31")
        if expires <= today:
            raise ConfigError(
                f"{file}: {name} was put off until {expires} ({reason}): look again, then renew or remove"
            )
        ids.append(str(name))
    return ids


@click.command()
@click.argument("locks", nargs=-1)
def audit(locks: Sequence[str]) -> None:
    """Look for known faults in LOCKS, all lock files unless named. Exits 1 for a fault, 78 for an exception gone by."""
    ids = ignored(ROOT / "deploy" / "audit.toml", datetime.now(UTC).date())
    options = [option for name in ids for option in ("--ignore-vuln", name)]
    codes = []
    for lock in locks or LOCKS:
        click.echo(lock)
        command = [
            sys.executable,
            "-m",
            "pip_audit",
            "--strict",
            "--disable-pip",
            "--require-hashes",
            *options,
            "-r",
            lock,
        ]
        codes.append(subprocess.run(command, cwd=ROOT, check=False).returncode)  # noqa: S603  # our own arguments
    raise SystemExit(max(codes))


if __name__ == "__main__":
    audit()
