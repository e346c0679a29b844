"""Commands as people run them, for the tests: what they print, and how they end."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.on_kafka.canary import leaks
from tests.support.places import PROJECT

# A command that has nothing to wait for takes a fortieth of it on a machine that is not busy.
LIMIT_S = 60.0


def faust(*arguments: str, cwd: str | Path = PROJECT, **settings: str) -> tuple[int, str]:
    """Run `faust -A app ...`: its exit code and everything that it printed.

    Longer than the limit is a failure.
    """
    done = subprocess.run(
        [Path(sys.executable).with_name("faust"), "-A", "app", *arguments],
        cwd=cwd,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert not (said := leaks(done.stdout + done.stderr, f"faust {' '.join(arguments)}")), said
    return done.returncode, done.stdout + done.stderr


def one_line(output: str) -> str:
    """The one line that says what is wrong; there must be no traceback."""
    assert "Traceback" not in output, output
    [line] = [line for line in output.splitlines() if line.startswith("Error: ")]
    return line
