"""Tests of the fork server: a forked process behaves like one that was started, as a child."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fork_server import FAUST, MODULE, Process, differing
from tests.support.places import PROJECT

NOWHERE = {"KAFKA__BOOTSTRAPSERVERS": "127.0.0.1:1", "WORKER__STARTUPTIMEOUTS": "30"}
AS_EVER = "import subprocess, sys; done = subprocess.run(sys.argv[1:]); sys.exit(done.returncode)"
READS_FIRST = [str(FAUST), "-A", "app", "lag", "nobody"]  # it waits for a broker


def forked(*command: str | Path, **variables: str) -> "subprocess.Popen[str]":
    """Start a process through `subprocess.Popen`, which the fork server serves."""
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **NOWHERE, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert isinstance(process, Process)
    assert process._line is not None
    return process


@pytest.mark.timeout(300)
def test_a_fork_says_and_ends_as_a_process_does() -> None:
    """The script and the module are compared: streams, name, exit code and errors."""
    for command in ([str(FAUST), "-A", "app", "agents"], [*MODULE, "-A", "app", "nonsense"]):
        process = forked(*command)
        output, errors = process.communicate(timeout=120)
        started = subprocess.run(
            [sys.executable, "-c", AS_EVER, *command],
            cwd=PROJECT,
            env={**os.environ, **NOWHERE},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert (process.returncode, output, errors) == (
            started.returncode,
            started.stdout,
            started.stderr,
        )
        assert process.returncode == (0 if "agents" in command else 2)
        assert isinstance(process, Process)
        assert process.cpu_s > 0


@pytest.mark.timeout(300)
def test_a_fork_is_signalled_and_reaped_like_a_child() -> None:
    process = forked(*READS_FIRST)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    process.communicate(timeout=120)
    assert process.wait() == process.poll() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_only_settings_may_differ_from_the_server() -> None:
    """A variable that Python or a library may read at its start needs a process without a fork."""
    of_server = {"HOME": "/root", "PYTHONPATH": "."}
    assert not list(differing({**of_server, "KAFKA__TOPICPREFIX": "x", "COLUMNS": "80"}, of_server))
    assert list(differing({"HOME": "/root", "PYTHONUTF8": "1", "LANG": "C"}, of_server)) == [
        "LANG",
        "PYTHONPATH",
        "PYTHONUTF8",
    ]
    process = subprocess.Popen(
        [FAUST, "--help"], env={**os.environ, "LANG": "xx"}, stdout=subprocess.DEVNULL
    )
    assert isinstance(process, Process)
    assert process._line is None
    assert process.wait(120) == 0
