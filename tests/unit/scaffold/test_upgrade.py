"""Tests of an upgrade: each file of a project, by who changed it."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from famulus.scaffold import command_line
from famulus.scaffold.record import FILE, Record, read_record, write_record
from famulus.scaffold.template import Answers, ProjectFile
from famulus.scaffold.upgrade import apply, changes_of, merge

OLD, NEW = Answers("shop", "1.0", has_wheel=False), Answers("shop", "2.0", has_wheel=False)
BASE = "one\ntwo\nthree\nfour\nfive\n"


def project_of(folder: Path, texts: dict[str, str]) -> Record:
    """Write a project as `init` does."""
    files = {path: ProjectFile(path, text) for path, text in texts.items()}
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    write_record(folder, OLD, files)
    return read_record(folder)


def upgraded(folder: Path, record: Record, texts: dict[str, str]) -> dict[str, int]:
    """Upgrade to *texts*: the conflicts of each file that was changed."""
    changes = changes_of(folder, record, {path: ProjectFile(path, t) for path, t in texts.items()})
    apply(folder, changes)
    return {change.path: change.conflicts for change in changes}


def test_an_unchanged_file_becomes_the_new_one(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"Makefile": BASE})
    assert upgraded(tmp_path, record, {"Makefile": "new\n"}) == {"Makefile": 0}
    assert (tmp_path / "Makefile").read_text() == "new\n"


def test_changes_of_both_sides_are_kept(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"Makefile": BASE})
    (tmp_path / "Makefile").write_text(BASE.replace("one", "mine"))
    assert upgraded(tmp_path, record, {"Makefile": BASE.replace("five", "theirs")}) == {
        "Makefile": 0
    }
    assert (tmp_path / "Makefile").read_text() == "mine\ntwo\nthree\nfour\ntheirs\n"


def test_changes_of_the_same_line_are_both_written_with_marks(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"Makefile": BASE})
    (tmp_path / "Makefile").write_text(BASE.replace("three", "mine"))
    assert upgraded(tmp_path, record, {"Makefile": BASE.replace("three", "theirs")}) == {
        "Makefile": 1
    }
    text = (tmp_path / "Makefile").read_text()
    assert "<<<<<<< yours\nmine\n" in text
    assert "theirs\n>>>>>>> famulus\n" in text


def test_a_file_that_the_template_does_not_change_stays_as_the_team_has_it(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"Makefile": BASE})
    (tmp_path / "Makefile").write_text("mine\n")
    assert upgraded(tmp_path, record, {"Makefile": BASE}) == {}
    assert (tmp_path / "Makefile").read_text() == "mine\n"


def test_a_deleted_file_stays_deleted(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"Procfile": BASE})
    (tmp_path / "Procfile").unlink()
    assert upgraded(tmp_path, record, {"Procfile": "new\n"}) == {}
    assert not (tmp_path / "Procfile").exists()


def test_a_new_file_is_added_and_an_old_one_removed_unless_it_was_changed(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"old": BASE, "mine": BASE})
    (tmp_path / "mine").write_text("mine\n")
    assert upgraded(tmp_path, record, {"deploy/new": "new\n"}) == {"deploy/new": 0, "old": 0}
    assert (tmp_path / "deploy/new").read_text() == "new\n"
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "mine").read_text() == "mine\n"


def test_a_new_file_beside_one_of_the_team_of_that_name_is_a_conflict(tmp_path: Path) -> None:
    record = project_of(tmp_path, {"Makefile": BASE})
    (tmp_path / "Dockerfile").write_text("mine\n")
    assert upgraded(tmp_path, record, {"Makefile": BASE, "Dockerfile": "new\n"}) == {
        "Dockerfile": 1
    }
    assert "mine\n" in (tmp_path / "Dockerfile").read_text()


@pytest.mark.parametrize("path", ["agents/orders.py", "models/orders.py", "README.md", "demo.py"])
def test_a_sample_is_never_changed(tmp_path: Path, path: str) -> None:
    record = project_of(tmp_path, {path: BASE})
    assert upgraded(tmp_path, record, {path: "new\n"}) == {}
    assert (tmp_path / path).read_text() == BASE


LINES = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8).map(
    lambda lines: "".join(f"{line}\n" for line in lines)
)


@given(base=LINES, mine=LINES)
def test_a_merge_with_an_unchanged_side_is_the_other_side(base: str, mine: str) -> None:
    assert merge(base, mine, base) == (mine, 0)
    assert merge(base, base, mine) == (mine, 0)


# The command.


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Run the command in an empty folder; the engine came from an index, version 2.0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "source_of_engine", lambda: None)
    monkeypatch.setattr(command_line, "engine_version", lambda: "2.0")
    return CliRunner()


def test_an_upgrade_shows_its_changes_asks_and_is_done_once(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.invoke(command_line.main, ["init", "."], catch_exceptions=False).exit_code == 78
    made = run.invoke(command_line.main, ["init", "shop"])
    assert (made.exit_code, made.output.splitlines()[-1]) == (
        0,
        "next: cd shop && make run && make test",
    )
    monkeypatch.chdir("shop")
    assert "2.0 -> 2.0: nothing to change" in run.invoke(command_line.main, ["upgrade"]).output
    monkeypatch.setattr(command_line, "engine_version", lambda: "3.0")
    shown = run.invoke(command_line.main, ["upgrade", "--dry-run"])
    assert (shown.exit_code, "+famulus==3.0" in shown.output) == (0, True)
    refused = run.invoke(command_line.main, ["upgrade"], input="n\n")
    assert refused.exit_code == 1
    assert "famulus==2.0" in Path("requirements.txt").read_text()
    done = run.invoke(command_line.main, ["upgrade"], input="y\n")
    assert done.exit_code == 0, done.output
    assert "famulus==3.0" in Path("requirements.txt").read_text()
    assert "3.0 -> 3.0: nothing to change" in run.invoke(command_line.main, ["upgrade"]).output


def test_a_conflict_is_the_exit_code(run: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    run.invoke(command_line.main, ["init", "shop"])
    monkeypatch.chdir("shop")
    Path("requirements.txt").write_text("famulus==2.0.1\n")
    monkeypatch.setattr(command_line, "engine_version", lambda: "3.0")
    done = run.invoke(command_line.main, ["upgrade", "--yes"])
    assert done.exit_code == 1
    assert "requirements.txt: 1 conflicts, look for <<<<<<<" in done.output


@pytest.mark.parametrize("name", ["Shop", "1shop", "a", "sh_op", "shop-", "s" * 41, "schöp"])
def test_a_name_that_others_refuse_is_refused(run: CliRunner, name: str) -> None:
    done = run.invoke(command_line.main, ["init", name])
    assert done.exit_code == 78
    assert "is no name for a project" in done.output
    assert not Path(name).exists()


def test_a_folder_with_something_in_it_is_left_alone(run: CliRunner) -> None:
    Path("shop").mkdir()
    Path("shop/mine").write_text("mine")
    done = run.invoke(command_line.main, ["init", "shop"])
    assert (done.exit_code, [p.name for p in Path("shop").iterdir()]) == (78, ["mine"])
    assert "is not empty" in done.output


def test_a_folder_that_cannot_be_written_ends_in_words(run: CliRunner) -> None:
    Path("file").write_text("")
    done = run.invoke(command_line.main, ["init", "file/shop"])
    assert done.exit_code == 78
    assert "cannot be written: Not a directory" in done.output


@pytest.mark.parametrize("note", [None, "", "[]", "{}", '{"answers": {}, "files": {}}', "\udcff"])
def test_a_folder_without_a_readable_note_is_not_upgraded(run: CliRunner, note: str | None) -> None:
    if note is not None:
        Path(FILE).write_text(note, "utf-8", "surrogateescape")
    done = run.invoke(command_line.main, ["upgrade", "--yes"])
    assert done.exit_code == 78
    assert ("was not made by" if note is None else "cannot be read") in done.output
