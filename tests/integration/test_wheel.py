"""The engine as a library: its wheel in an empty environment, and projects that `famulus init` writes there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import platformdirs
import pytest
from hatchling.builders.wheel import WheelBuilder

from famulus.scaffold.template import constraints_of
from tests.support.places import ROOT

LIMIT_S = 170.0
# Variables by which a project would find the tests' own environment, or their options of make.
LEFT_OUT = re.compile(r"PYTHON|VIRTUAL_ENV|MAKE|MFLAGS|COVERAGE|PYTEST|KAFKA|WORKER__|UV$")


class Shell:
    """Runs commands as in a new terminal."""

    def __init__(self, kafka: str) -> None:
        kept = {name: text for name, text in os.environ.items() if not LEFT_OUT.match(name)}
        self.environment = {**kept, "KAFKA_BOOTSTRAP_SERVERS": kafka}
        if "UV_DEFAULT_INDEX" not in kept and (index := pip_index()):
            self.environment["UV_DEFAULT_INDEX"] = index

    def run(self, *words: str | Path, cwd: Path, code: int = 0) -> str:
        """Run a command to its end, which must be *code*; return what it printed."""
        done = subprocess.run(
            words,
            cwd=cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        assert done.returncode == code, done.stdout[-4000:]
        return done.stdout


def pip_index() -> str:
    """Return the package index that pip is set to, as the Makefile does; empty for the usual one."""
    command = ["python3", "-m", "pip", "config", "get", "global.index-url"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def uv() -> list[str]:
    """Return the installer that `make install` uses: much faster than pip, from the same index."""
    cached = sorted(platformdirs.user_cache_path("famulus").glob("uv-*/bin/uv"))
    return [str(cached[-1]), "pip", "install", "--quiet", "--python"]


def build(folder: Path, version: str, source: Path = ROOT) -> Path:
    """Build the wheel of *source* into *folder*, called by *version*."""
    builder = WheelBuilder(str(source))
    builder.metadata.core.config["version"] = version
    [made] = builder.build(directory=str(folder))
    return Path(made)


@pytest.fixture
def shell(bootstrap_servers: str) -> Shell:
    """A terminal, and a Kafka for what is run there."""
    return Shell(bootstrap_servers)


def install(shell: Shell, environment: Path, *what: str) -> None:
    """Install *what* into an environment, at the versions of the lock file."""
    constraints = ("--constraint", str(environment.parent / "constraints.txt"))
    shell.run(*uv(), str(environment), *constraints, *what, cwd=environment)


def test_a_project_runs_on_the_wheel_and_is_upgraded_to_the_next(
    shell: Shell, tmp_path: Path
) -> None:
    environment, project = tmp_path / "environment", tmp_path / "demo"
    shell.run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    famulus = environment / "bin/famulus"
    (tmp_path / "constraints.txt").write_text(
        constraints_of((ROOT / "requirements.lock").read_text())
    )
    install(shell, environment, str(build(tmp_path / "first", "0.1.0")))
    assert "next: cd demo && make run && make test" in shell.run(
        famulus, "init", "demo", cwd=tmp_path
    )
    make = ("make", f"PYTHON={sys.executable}", f"INSTALL={' '.join([*uv(), '.venv'])}")
    said = shell.run(*make, "run", cwd=project)
    assert "1000 orders of 499,042.14 published, 499,042.14 counted" in said
    assert "3 passed" in shell.run(*make, "test", cwd=project)
    installed = project / ".venv/lib"
    assert [path.name for path in installed.glob("*/site-packages/famulus*")]
    assert not (project / "famulus").exists()

    # The next version: another Makefile, and the team has changed its own.
    engine = tmp_path / "engine"
    shutil.copytree(ROOT / "famulus", engine / "famulus", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, engine)
    makefile = engine / "famulus/scaffold/template/Makefile.jinja"
    makefile.write_text(makefile.read_text() + "\nnews:  ## of the next version\n\t@echo new\n")
    own = project / "Makefile"
    own.write_text("# Ours.\n" + own.read_text())
    install(shell, environment, str(build(tmp_path / "second", "0.2.0", engine)))
    assert "0.1.0 -> 0.2.0" in shell.run(famulus, "upgrade", cwd=project, code=1)  # it asks
    shown = shell.run(famulus, "upgrade", "--yes", cwd=project)
    assert "+famulus==0.2.0" in shown
    assert own.read_text().startswith("# Ours.\n")
    assert "new" in shell.run(*make, "news", cwd=project)
    assert "3 passed" in shell.run(*make, "test", cwd=project)
    version = "from importlib.metadata import version; print(version('famulus'))"
    assert shell.run(project / ".venv/bin/python", "-c", version, cwd=project) == "0.2.0\n"


def test_the_wheel_holds_the_engine_and_nothing_else(tmp_path: Path) -> None:
    names = zipfile.ZipFile(build(tmp_path, "0.1.0")).namelist()
    assert {name.split("/")[0] for name in names} == {"famulus", "famulus-0.1.0.dist-info"}
    assert {"famulus/py.typed", "famulus/scaffold/template/requirements.lock"} <= set(names)
