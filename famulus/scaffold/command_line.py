"""The command `famulus`: `init` writes a project, `upgrade` brings one to the installed version."""

import re
from pathlib import Path

import click
from rich.console import Console
from rich.syntax import Syntax

from famulus.errors import ConfigError
from famulus.scaffold.record import read_record, write_record
from famulus.scaffold.template import Answers, engine_version, render
from famulus.scaffold.upgrade import Change, apply, changes_of
from famulus.scaffold.wheel import add_wheel, source_of_engine

# As Kubernetes, Docker and systemd take names.
NAME = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")
ALLOWED_BEFORE = {".git"}


@click.group()
@click.version_option(engine_version(), prog_name="famulus")
def main() -> None:
    """Write and upgrade projects that handle events on Apache Kafka.

    In a project, `faust -A app --help` lists the commands for its worker.
    """


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Name of the project and of its consumer group; else the folder's.")
def init(folder: Path, name: str | None) -> None:
    """Write a new project into FOLDER, which must be empty or missing.

    \b
    For example:
    famulus init payments && cd payments && make run
    """
    name = _checked_name(name or folder.resolve().name)
    if folder.is_dir() and any(entry.name not in ALLOWED_BEFORE for entry in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty: choose a folder that is, or a new one")
    source = source_of_engine()
    answers = Answers(name, engine_version(), has_wheel=source is not None)
    files = render(answers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if source is not None:
            add_wheel(source, folder)
        apply(
            folder,
            [
                Change(file.path, None, file.text, is_executable=file.is_executable)
                for file in files.values()
            ],
        )
        write_record(folder, answers, files)
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be written: {error.strerror}") from None
    click.echo(f"{name}: {len(files)} files written to {folder}")
    click.echo(f"next: cd {folder} && make run && make test")


@main.command()
@click.option("--dry-run", is_flag=True, help="Show the changes, and make none.")
@click.option("--yes", is_flag=True, help="Make the changes without asking.")
def upgrade(*, dry_run: bool, yes: bool) -> None:
    """Bring the project in this folder to the installed version of famulus.

    The changes are shown first. Your own changes of these files are kept; where both changed the
    same lines, both are written, with git's marks, and the exit code is 1. Your models, agents,
    tests, settings and README are never touched.
    """
    project = Path()
    record = read_record(project)
    source = source_of_engine()
    answers = Answers(record.answers.name, engine_version(), has_wheel=source is not None)
    files = render(answers)
    try:
        changes = changes_of(project, record, files)
        _show(changes)
        about = f"{record.answers.version} -> {answers.version}"
        if not changes:
            click.echo(f"{about}: nothing to change")
        if dry_run:
            return
        if changes and not yes:
            click.confirm(f"{about}: change {len(changes)} files?", abort=True)
        if source is not None:
            add_wheel(source, project)
        apply(project, changes)
        write_record(project, answers, files)
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"a file to upgrade is not UTF-8: {error.reason}") from None
    conflicts = [change for change in changes if change.conflicts]
    for change in conflicts:
        click.echo(f"{change.path}: {change.conflicts} conflicts, look for <<<<<<<", err=True)
    if changes:
        click.echo(f"{about}: {len(changes)} files changed; next: make test")
    raise SystemExit(1 if conflicts else 0)


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a project: 2 to 40 lowercase letters, digits and hyphens, "
            "a letter first; --name gives another than the folder's"
        )
    return name


def _show(changes: list[Change]) -> None:
    console = Console()
    for change in changes:
        text = "\n".join(change.diff())
        if console.is_terminal:
            console.print(Syntax(text, "diff", theme="ansi_dark", background_color="default"))
        else:
            click.echo(text)
