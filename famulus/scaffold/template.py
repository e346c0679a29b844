"""The files of a new project, rendered from the templates of this version."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jinja2

TEMPLATE = Path(__file__).with_name("template")
SUFFIX = ".jinja"
HIDDEN = "dot-"  # stands for the first dot of a name: tools skip or obey such files
LOCK = "requirements.lock"
CONSTRAINTS = "constraints.txt"
# Taken from the engine's own deployment, where every name is the engine's.
NAMED = re.compile(r"^(docker-compose\.yml|deploy/(kubernetes|systemd)/)")
ENGINE = re.compile(r"\bfamulus\b")
TESTS_OF_RULES = ".test.yml"
# What a team makes its own with its first event. It is written once and never upgraded.
SAMPLES = ("README.md", "agents/", "app/", "appsettings.json", "demo.py", "models/", "tests/")


@dataclass(frozen=True)
class Answers:
    """Properties of a project: its *name*, the engine's *version*, and if it has wheels/."""

    name: str
    version: str
    has_wheel: bool


@dataclass(frozen=True)
class ProjectFile:
    """A rendered file. Its path is relative to the project, with `/` between folders."""

    path: str
    text: str
    is_executable: bool = False

    @property
    def is_sample(self) -> bool:
        """Tell if the file belongs to the team once it is written."""
        return self.path.startswith(SAMPLES)


def engine_version() -> str:
    """Return the version of the installed engine."""
    return metadata.version("famulus")


def render(answers: Answers) -> dict[str, ProjectFile]:
    """Render every file of a project, by path."""
    environment = jinja2.Environment(  # noqa: S701  # these are no web pages
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    files: dict[str, ProjectFile] = {}
    for source in _sources(TEMPLATE):
        path = source.relative_to(TEMPLATE).as_posix()
        text = source.read_text("utf-8")
        if path == LOCK:
            path, text = CONSTRAINTS, constraints_of(text)
        elif path.endswith(SUFFIX):
            path = path.removesuffix(SUFFIX)
            text = environment.from_string(text).render(
                name=answers.name, version=answers.version, wheel=answers.has_wheel
            )
        if NAMED.match(path):
            path, text = (ENGINE.sub(answers.name, part) for part in (path, text))
        path = "/".join(_visible(part) for part in path.split("/"))
        is_executable = text.startswith("#!")
        files[path] = ProjectFile(path, text, is_executable)
    return files


def constraints_of(lock: str) -> str:
    """Return the versions of a lock file without their hashes, as pip takes constraints."""
    pins = [line.removesuffix("\\").strip() for line in lock.splitlines() if _is_pin(line)]
    title = "# The versions that this version of famulus was tested with."
    return "\n".join([title, *pins, ""])


def _is_pin(line: str) -> bool:
    return "==" in line and not line.startswith((" ", "#"))


def _sources(folder: Path) -> Iterator[Path]:
    # Not by rglob: it does not follow the links to the engine's own deployment.
    for entry in sorted(folder.iterdir()):
        if entry.is_dir():
            yield from _sources(entry)
        elif not entry.name.endswith(TESTS_OF_RULES):
            yield entry


def _visible(name: str) -> str:
    return f".{name.removeprefix(HIDDEN)}" if name.startswith(HIDDEN) else name
