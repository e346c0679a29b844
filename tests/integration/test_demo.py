"""`make run`, small: its last lines, its summary, its exit code, and what it says when it cannot run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo import sample
from famulus.dev.node import free_port
from tests.support.places import ROOT

# One process, so that its module's fixtures are made once.
pytestmark = pytest.mark.xdist_group("demo")

SCALE = 0.001  # 1,500 orders


def demo(*arguments: str, servers: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end."""
    return subprocess.run(
        [sys.executable, "-m", "demo.orders", "--scale", str(SCALE), *arguments],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": servers},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample that tests may copy and spoil."""
    folder = tmp_path_factory.mktemp("sample")
    sample.generate(SCALE, folder)
    return folder


def test_it_reconciles_and_says_so(bootstrap_servers: str, tmp_path: Path) -> None:
    """Every order once, every duplicate and every poison record recognised, exit 0, the same as JSON."""
    done = demo(
        "--duplicates",
        "7",
        "--poison",
        "11",
        "--summary",
        str(tmp_path / "s.json"),
        servers=bootstrap_servers,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].strip() == "reconciled"
    summary = json.loads((tmp_path / "s.json").read_text())
    assert {
        name: summary[name] for name in ("orders", "duplicates", "dead_letters", "reconciled")
    } == {
        "orders": 1500,
        "duplicates": 7,
        "dead_letters": 11,
        "reconciled": True,
    }
    assert summary["events"] > 1500 + 7 + 11
    assert summary["events_per_second"] > 0


def test_it_finds_what_differs(
    bootstrap_servers: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expectation that is one cent off is found, named, and ends in exit code 1: the comparison can fail."""
    spoilt = tmp_path / "sample"
    shutil.copytree(files, spoilt)
    script = (
        "from demo import orders, sample\n"
        "right = sample.expected_sums\n"
        "def wrong(folder):\n"
        "    cents, pieces = right(folder)\n"
        "    cents[next(iter(cents))] += 1\n"
        "    return cents, pieces\n"
        "sample.expected_sums = wrong\n"
        f"orders.demo(['--sample', {str(spoilt)!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cents of customer: 1 differ in all" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "not reconciled"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--scale", "abc"], 2, "'abc' is not a valid float"),
        (["--scale", "0"], 2, "not in the range"),
        (["--poison", "-1"], 2, "not in the range"),
        (["--sample", "/nowhere"], 78, "orders.csv cannot be read: No such file"),
    ],
)
def test_bad_input_is_one_line(
    bootstrap_servers: str, arguments: list[str], code: int, says: str
) -> None:
    """Wrong use is 2, a sample that cannot be read 78; no traceback."""
    done = demo(*arguments, servers=bootstrap_servers)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr


def test_a_missing_broker_is_69_within_seconds() -> None:
    """The address that was tried."""
    began = time.monotonic()
    done = demo(servers="127.0.0.1:1")
    assert done.returncode == 69, done.stdout + done.stderr
    assert "no Kafka broker answers at 127.0.0.1:1" in done.stderr
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_everything(tmp_path: Path, number: signal.Signals) -> None:
    """Broker, worker, folders: nothing is left, and there is no traceback."""
    port = str(free_port())
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path),
        "WORKER__WEBPORT": port,
    }
    environment.pop("KAFKA_BOOTSTRAP_SERVERS", None)
    running = subprocess.Popen(
        [sys.executable, "-m", "demo.orders", "--scale", str(SCALE), "--keep"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert running.stdout is not None
    output = ""
    for line in running.stdout:
        output += line
        if "Ctrl-C ends everything" in line:
            break
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 2, output
    running.send_signal(number)
    output += running.communicate(timeout=60)[0]
    assert "Traceback" not in output, output
    assert running.returncode == 0, output
    assert not [
        child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("famulus-")] == []
