"""Tests of links and owners of the worker's files.

A file that another user has put there is refused and stays unchanged.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from famulus import owned_files as owned
from famulus.config import WorkerConfig
from famulus.errors import ConfigError
from famulus.state.rocksdb_store import StateFolder
from famulus.webserver.auth import ADMIN_FILE, WebAuth
from famulus.webserver.tokens import TokenFile, made_token

TOKEN = "t" * 32


def victim(folder: Path) -> Path:
    """Return a file of another user with a valid token, which a link is to lead to."""
    path = folder / "victim"
    path.write_text(TOKEN)
    path.chmod(0o644)
    return path


LINKS: list[Callable[[Path, Path], None]] = [
    lambda path, target: path.symlink_to(target),
    lambda path, target: path.hardlink_to(target),
]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("state/LOCK", lambda data: StateFolder(data / "state").lock()),
        (ADMIN_FILE, lambda data: WebAuth(WorkerConfig(data_dir=data)).open()),
    ],
)
def test_a_link_in_the_data_folder_is_refused_and_its_target_left_alone(
    tmp_path: Path, link: Callable[[Path, Path], None], name: str, use: Callable[[Path], None]
) -> None:
    """The target is neither truncated nor taken for a token of the worker."""
    target = victim(tmp_path)
    (tmp_path / "data" / "state").mkdir(parents=True)
    link(tmp_path / "data" / name, target)
    with pytest.raises(ConfigError, match=f"{name} is a link") as refused:
        use(tmp_path / "data")
    assert refused.value.exit_code == 78
    assert "remove it" in refused.value.message
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == (TOKEN, 0o644)


def test_a_link_as_state_folder_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    """The worker does not take over a folder of another user."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    elsewhere.chmod(0o755)
    (tmp_path / "state").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"state is a link.*set Worker\.DataDir"):
        StateFolder(tmp_path / "state").lock()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["state", "state/LOCK", "web-read-token"])
def test_what_belongs_to_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    StateFolder(tmp_path / "state").lock()
    made_token("T", tmp_path / "web-read-token")
    others = {(tmp_path / name).stat().st_ino}
    real = os.fstat

    def fstat(file: int) -> os.stat_result:
        found = real(file)
        return os.stat_result((*found[:4], found.st_uid + (found.st_ino in others), *found[5:]))

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(ConfigError, match="belongs to another user") as refused:
        made_token("T", tmp_path / "web-read-token")
        StateFolder(tmp_path / "state").lock()
    assert str(tmp_path / name) in refused.value.message


def test_a_token_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """A user who can write the token can choose it and log in."""
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o620)
    for is_made in (True, False):
        with pytest.raises(ConfigError, match=f"can be written by other users.*chmod 600 {path}"):
            TokenFile("T", path, is_made=is_made)


def test_a_given_token_may_be_reached_by_links_of_ours(tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links."""
    (tmp_path / "real").write_text(TOKEN)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "..data").symlink_to(tmp_path / "real")
    (tmp_path / "token").symlink_to("..data")
    assert TokenFile("T", tmp_path / "token").text == TOKEN


@pytest.mark.parametrize("name", ["real", "token"])
def test_a_given_token_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "real").write_text(TOKEN)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "token").symlink_to("real")
    owner = os.geteuid()
    monkeypatch.setattr(owned, "ROOT", owner)
    own = (tmp_path / name).lstat().st_ino
    check = owned._check_owner

    def of_another(found: os.stat_result, path: Path, what: str, owners: set[int]) -> None:
        check(found, path, what, set() if found.st_ino == own else owners)

    monkeypatch.setattr(owned, "_check_owner", of_another)
    with pytest.raises(ConfigError, match="belongs to another user"):
        TokenFile("T", tmp_path / "token")
