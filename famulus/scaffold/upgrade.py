"""The changes that a later version of the template makes to a project, with the team's own kept."""

import difflib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from famulus.errors import UnavailableError
from famulus.scaffold.record import Record
from famulus.scaffold.template import ProjectFile

CONFLICTS_MAX = 127  # git counts no further


@dataclass(frozen=True)
class Change:
    """A file that an upgrade writes, or removes where *after* is None.

    *before* is None for a file that is not there yet. *conflicts* counts the places where both
    sides changed the same lines; they are marked in *after* as git marks them.
    """

    path: str
    before: str | None
    after: str | None
    conflicts: int = 0
    is_executable: bool = False

    def diff(self) -> Iterator[str]:
        """Yield the lines of a unified diff, without line ends."""
        yield from difflib.unified_diff(
            (self.before or "").splitlines(),
            (self.after or "").splitlines(),
            f"a/{self.path}" if self.before is not None else "/dev/null",
            f"b/{self.path}" if self.after is not None else "/dev/null",
            lineterm="",
        )


def changes_of(project: Path, record: Record, files: Mapping[str, ProjectFile]) -> list[Change]:
    """Return what brings *project*, made from *record*, to the rendered *files*, by path.

    A sample is never changed, and a file that the team has deleted stays deleted. Raises
    UnavailableError when both sides changed a file and git, which merges, is missing.
    """
    new = {path: file for path, file in files.items() if not file.is_sample}
    found = (
        _change(project, path, record.texts.get(path), new.get(path))
        for path in sorted({*record.texts, *new})
    )
    return [change for change in found if change is not None]


def apply(project: Path, changes: list[Change]) -> None:
    """Write *changes* into *project*."""
    for change in changes:
        file = project / change.path
        if change.after is None:
            file.unlink(missing_ok=True)
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(change.after, "utf-8")
        if change.is_executable:
            file.chmod(0o755)


def _change(project: Path, path: str, base: str | None, new: ProjectFile | None) -> Change | None:
    file = project / path
    mine = file.read_text("utf-8") if file.is_file() else None
    theirs = new.text if new is not None else None
    is_executable = new is not None and new.is_executable
    if theirs in (base, mine):
        return None
    if mine == base:  # also where neither is there
        return Change(path, mine, theirs, is_executable=is_executable)
    if mine is None or theirs is None:  # deleted by one side: the team has the say
        return None
    merged, conflicts = merge(base or "", mine, theirs)
    return Change(path, mine, merged, conflicts, is_executable)


def merge(base: str, mine: str, theirs: str) -> tuple[str, int]:
    """Merge two changes of one text by lines; return the text and its number of conflicts.

    Raises UnavailableError when git is missing or cannot merge.
    """
    git = shutil.which("git")
    if git is None:
        raise UnavailableError("git is missing, which merges files that both sides changed")
    with tempfile.TemporaryDirectory(prefix="famulus-") as folder:
        names = {"yours": mine, "before": base, "famulus": theirs}
        for name, text in names.items():
            Path(folder, name).write_text(text, "utf-8")
        labels = [word for name in names for word in ("-L", name)]
        done = subprocess.run(
            [git, "merge-file", "--stdout", *labels, *names],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode < 0 or done.returncode > CONFLICTS_MAX:
        raise UnavailableError(f"git could not merge: {done.stderr.strip()}")
    return done.stdout, done.returncode
