"""Tests that Kafka's jars and uv are used only with the locked hashes."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from famulus.dev import jars
from famulus.dev.jars import Jar, check, lines_of, locked, names_and_sizes
from famulus.errors import ConfigError, UnavailableError
from tests.support.places import ROOT

CONTENT = b"a jar"
WANTED = [Jar("one.jar", len(CONTENT), sha256(CONTENT).hexdigest())]


def test_every_jar_is_locked_by_its_hash() -> None:
    """The lists are those of Kafka and of its tools."""
    for name in ("kafka", "kafka-tools"):
        assert len(locked(name)) > 30
        assert all(
            re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in locked(name)
        )
    assert f"kafka_2.13-{jars.KAFKA}.jar" in {jar.name for jar in locked("kafka")}


def test_what_is_locked_is_what_is_there(tmp_path: Path) -> None:
    """Lines made from a folder are valid for that folder."""
    (tmp_path / "one.jar").write_bytes(CONTENT)
    assert lines_of("kafka", tmp_path) == [f"{WANTED[0].sha256} 5 kafka/one.jar"]
    assert names_and_sizes(tmp_path) == {"one.jar": 5}
    check(tmp_path, WANTED)


CHANGES: list[Callable[[Path], object]] = [
    lambda folder: (folder / "one.jar").write_bytes(b"A jar"),
    lambda folder: (folder / "two.jar").write_bytes(CONTENT),
    lambda folder: (folder / "one.jar").unlink(),
]


@pytest.mark.parametrize("change", CHANGES)
def test_another_download_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    """Other bytes, an additional jar or a missing jar leave nothing in the cache."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "one.jar").write_bytes(CONTENT)
    change(source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jars, "locked", lambda _: WANTED)
    artifacts = [SimpleNamespace(resolve=lambda file=file: file) for file in source.iterdir()]
    monkeypatch.setattr("jgo.resolve", lambda _: artifacts)
    with pytest.raises(UnavailableError, match=r"jar is not .*jars\.lock"):
        jars.jars()
    assert not [left for left in (tmp_path / "cache" / "famulus").iterdir() if left.is_dir()]


def test_a_folder_that_was_changed_later_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have left an unfinished folder, or put a jar into it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "famulus" / f"kafka-{jars.KAFKA}"
    folder.mkdir(parents=True)
    (folder / "other.jar").touch()
    with pytest.raises(
        ConfigError, match=f"{folder} are not those of jars.lock: remove that folder"
    ):
        jars.jars()


def test_uv_is_installed_by_its_hash() -> None:
    """The Makefile names the version."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    [version] = re.findall(r"^UV_VERSION := ([0-9.]+)", makefile, re.MULTILINE)
    lock = (ROOT / "deploy" / "uv.lock.txt").read_text("ascii")
    assert re.findall(r"^(\S+) ", lock, re.MULTILINE) == [f"uv=={version}"]
    assert lock.count("--hash=sha256:") > 1
    assert "--require-hashes -r deploy/uv.lock.txt" in makefile
