"""Tests of the changes to files that restart a worker of `dev`."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from famulus.cli.dev.changes import Changes
from famulus.errors import ConfigError

LIMIT_S = 20.0
SETTLED_S = 1.0  # a change is noticed within this time


@pytest.fixture
async def changes(tmp_path: Path) -> AsyncIterator[Changes]:
    """Yield the watched changes of a project that has no models yet."""
    for folder in ("agents/__pycache__", "app", "data"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "agents/orders.py").touch()
    changes = Changes(tmp_path, tmp_path)
    async with changes.watched():
        await asyncio.sleep(SETTLED_S)
        yield changes


async def taken(changes: Changes) -> str:
    """Wait for a change, and return its files."""
    await asyncio.wait_for(changes.saved.wait(), LIMIT_S)
    return changes.take()


async def test_a_save_is_named_and_taken_once(changes: Changes, tmp_path: Path) -> None:
    """Editors replace files when they save.

    Deleted files and settings count as well.
    """
    (tmp_path / "agents/orders.py").write_text("a = 1")
    assert await taken(changes) == "agents/orders.py"
    assert not changes.saved.is_set()
    fresh = tmp_path / "agents/orders.py.tmp"
    fresh.write_text("a = 2")
    fresh.replace(tmp_path / "agents/orders.py")
    assert await taken(changes) == "agents/orders.py"
    (tmp_path / "agents/orders.py").unlink()
    assert await taken(changes) == "agents/orders.py"
    (tmp_path / "appsettings.Development.json").write_text("{}")
    assert await taken(changes) == "appsettings.Development.json"


async def test_a_folder_that_comes_later_is_watched(changes: Changes, tmp_path: Path) -> None:
    """The checkout of another branch creates such a folder."""
    (tmp_path / "models").mkdir()
    assert await taken(changes) == "models"
    await asyncio.sleep(SETTLED_S)
    (tmp_path / "models/orders.py").touch()
    assert await taken(changes) == "models/orders.py"


async def test_what_is_nobodys_code_is_no_save(changes: Changes, tmp_path: Path) -> None:
    """Examples are compiled files, backups of editors, data and other files of the project."""
    for name in (
        "agents/__pycache__/orders.cpython-311.pyc",
        "agents/.orders.py.swp",
        "data/web-read-token",
        "notes",
    ):
        (tmp_path / name).write_text("x")
    (tmp_path / "agents/4913").touch()
    (tmp_path / "agents/4913").unlink()
    await asyncio.sleep(SETTLED_S)
    assert not changes.saved.is_set()


async def test_many_names_are_counted(changes: Changes, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"agents/a{number}.py").touch()
    assert await taken(changes) == "agents/a0.py, agents/a1.py, agents/a2.py and 2 more"


async def test_files_that_cannot_be_watched_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may have too few watches."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.awatch", refuse)
    (tmp_path / "agents").mkdir()
    changes = Changes(tmp_path, tmp_path)
    async with changes.watched():
        with pytest.raises(
            ConfigError, match="OS file watch limit reached; WATCHFILES_FORCE_POLLING=1"
        ):
            await taken(changes)
