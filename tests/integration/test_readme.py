"""The README's way to an event type of one's own, word by word, in a copy of the whole tree."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from famulus.config import KafkaConfig
from famulus.dev.node import free_port
from tests.integration.conftest import settings_of
from tests.support.places import ROOT

NOT_COPIED = {".git", ".venv", ".hypothesis", ".pytest_cache", ".ruff_cache", "data"}
LIMIT_S = 300.0
PARCEL_MODEL = """from famulus import Event


class ParcelSent(Event, namespace="parcels.ParcelSent", topic="parcel-events", key="parcel_number"):
    parcel_number: int
    grams: int
"""
PARCEL_AGENT = """from app import app, handles
from models.parcels import ParcelSent

# TODO: ask whoever sends them
parcels = app.subscription("parcel-events")
grams = parcels.Table("grams", key=int, value=int, default=int)


def heavy(parcel, limit=30_000):
    if parcel.grams > limit:
        raise ValueError(f"parcel {parcel.parcel_number} is too heavy")
    return parcel.grams


@handles(ParcelSent)
def weigh(parcel: ParcelSent):
    print("weighing", parcel)
    grams[parcel.parcel_number] += heavy(parcel)
"""


class Newcomer:
    """Somebody in a new terminal, in a copy of the tree, with the README."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        # A new terminal: no folder of packages is on its PATH.
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        self.environment = {**kept, "PATH": os.defpath, "SHELL": "/bin/sh", **settings}
        text = (ROOT / "README.md").read_text("utf-8")
        self.section = text.partition("## Add an event type\n")[2].partition("\n## ")[0]
        self.section = self.section.partition("\nA handler is a function")[0]

    def write_files(self) -> None:
        """Put each block of code into the file that its first line names."""
        for part in self.section.split("```python\n")[1:]:
            code = part.split("```")[0]
            (self.folder / code.split("\n")[0].removeprefix("# ")).write_text(code)

    def commands(self) -> list[str]:
        """The lines to type, in their order."""
        prose = "".join(self.section.split("```")[::2])
        return [line.strip() for line in prose.splitlines() if line.startswith("    ")]

    def make(self, *words: str, typed: str = "") -> str:
        """Run make, with the environment that is there, and type into it; what it printed."""
        done = subprocess.run(
            make(*words),
            cwd=self.folder,
            env=self.environment,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    @contextmanager
    def developing(self) -> Iterator[Path]:
        """Have `make dev` running, and ready."""
        log = self.folder.with_suffix(".log")
        with (
            log.open("wb") as output,
            subprocess.Popen(
                make("dev"),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as running,
        ):
            try:
                wait_says(log, 1)
                yield log
            finally:
                os.killpg(running.pid, signal.SIGINT)  # as Ctrl-C does
                running.wait(60)


def make(*words: str) -> list[str]:
    """The command, with what is installed taken for new enough."""
    return ["make", "-o", ".venv/installed", *words]


def wait_says(log: Path, times: int) -> None:
    """Wait until a worker has got ready so often."""
    until = time.monotonic() + LIMIT_S / 3
    while log.read_text("utf-8", "replace").count("dev: ready after") < times:
        assert time.monotonic() < until, log.read_text("utf-8", "replace")[-3000:]
        time.sleep(0.1)


@pytest.fixture
def newcomer(kafka: KafkaConfig, tmp_path: Path) -> Newcomer:
    """A copy of everything but what is made here, with the packages of this one."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = NOT_COPIED if Path(folder) == ROOT else set()
        return {name for name in names if name in top or ".pyc" in name}

    copy = tmp_path / "fork"
    shutil.copytree(ROOT, copy, ignore=left_out)
    subprocess.run(["git", "init", "--quiet", copy], check=True)  # as a clone is
    (copy / ".venv").symlink_to(Path(sys.executable).parent.parent)
    settings = {**settings_of(kafka, tmp_path / "data"), "WORKER__WEBPORT": str(free_port())}
    return Newcomer(copy, settings)


def test_the_first_event_of_ones_own(newcomer: Newcomer, wait_settled: Callable[..., None]) -> None:
    """Every block in its file, every line typed: the event is handled; then a second type, saved while all runs."""
    newcomer.write_files()
    first, second, *typed = newcomer.commands()
    assert (first, second.split()) == ("make dev", ["make", "shell"])
    *before, look = typed
    with newcomer.developing() as log:
        said = newcomer.make("shell", typed="\n".join(["set -e", *before, ""]))
        assert "@payment-events" in said
        wait_settled("payment-events", expected=1)
        said = newcomer.make("shell", typed=f"{look}\n")
        assert '"key":"00000000-0000-0000-0000-000000000007","value":"12.50"' in said

        (newcomer.folder / "models/parcels.py").write_text(PARCEL_MODEL)
        (newcomer.folder / "agents/parcels.py").write_text(PARCEL_AGENT)
        wait_says(log, 2)
        script = (newcomer.folder / "pay.py").read_text()
        script = script.replace(
            "models.payments import PaymentMade", "models.parcels import ParcelSent"
        )
        script = script.replace(
            'PaymentMade(customer_id=UUID(int=7), amount=Decimal("12.50"))',
            "ParcelSent(parcel_number=7, grams=700)",
        )
        (newcomer.folder / "send.py").write_text(script)
        newcomer.make("shell", typed="python send.py\n")
        wait_settled("parcel-events", expected=1)
        said = newcomer.make("shell", typed="faust -A app state export --table grams\n")
        assert '"key":7,"value":700' in said


def test_the_rest_takes_event_types_of_ones_own(newcomer: Newcomer) -> None:
    """The demo, the linters, the Procfile, and tests of what depends on the topics that are read."""
    newcomer.write_files()
    (newcomer.folder / "models/parcels.py").write_text(PARCEL_MODEL)
    (newcomer.folder / "agents/parcels.py").write_text(PARCEL_AGENT)
    newcomer.make("lint")
    servers = newcomer.environment["KAFKA__BOOTSTRAPSERVERS"]
    newcomer.environment = {
        name: value for name, value in newcomer.environment.items() if "__" not in name
    } | {"KAFKA_BOOTSTRAP_SERVERS": servers}
    assert newcomer.make("run", "SCALE=0.001").splitlines()[-1].strip() == "reconciled"
    tests = "tests/unit/test_deploy.py tests/unit/test_declarations.py tests/integration/test_publish.py"
    newcomer.make("shell", typed=f"python -m pytest -q -p no:cacheprovider {tests}\n")
    worker = (newcomer.folder / "Procfile").read_text().partition(": ")[2].strip()
    assert worker.endswith("--web-port $PORT")
    done = subprocess.run(
        ["/bin/sh", "-c", f"{worker} --help"],
        cwd=newcomer.folder,
        env={**newcomer.environment, "PORT": "6066"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
