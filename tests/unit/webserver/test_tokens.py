"""Tests of the tokens of the web views: their sources, and refusals."""

from pathlib import Path

import pytest

from famulus.config import WorkerConfig
from famulus.errors import ConfigError
from famulus.webserver import tokens
from famulus.webserver.auth import ADMIN_FILE, READ_FILE, WebAuth, is_loopback
from famulus.webserver.tokens import TokenFile, made_token

GOOD, OTHER = "a" * 32, "b" * 32


def kept(path: Path, text: str, mode: int = 0o600) -> Path:
    """Write a token file."""
    path.write_text(text)
    path.chmod(mode)
    return path


def test_made_tokens_are_random_private_and_stay(tmp_path: Path) -> None:
    """A restart keeps the token; two folders never share one."""
    path = tmp_path / "data" / "web-read-token"
    token = made_token("T", path).text
    assert path.stat().st_mode & 0o777 == 0o600
    assert made_token("T", path).text == token == path.read_text().strip()
    assert made_token("T", tmp_path / "other").text != token
    assert len(token) >= 43


@pytest.mark.parametrize(("text", "mode"), [("", 0o600), ("short", 0o600), (GOOD, 0o644)])
def test_a_made_token_that_is_no_longer_good_is_made_anew(
    tmp_path: Path, text: str, mode: int
) -> None:
    """A kill between creation and writing leaves an empty file.

    A token that other users could read is replaced too.
    """
    path = kept(tmp_path / "token", text, mode)
    token = made_token("T", path).text
    assert token not in {text, ""}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_where_the_token_will_be_written_is_not_followed(tmp_path: Path) -> None:
    """Another user must not choose the file that the worker writes."""
    (tmp_path / "token.new").symlink_to(kept(tmp_path / "victim", "precious"))
    made_token("T", tmp_path / "token")
    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (GOOD, 0o604, "open to every user of this machine: chmod 600"),
        ("short", 0o600, "22 to 512 characters"),
        ("with spaces in the middle of it", 0o600, "letters, digits"),
        ("é" * 40, 0o600, "it is not ASCII"),
        ("a" * 513, 0o600, "22 to 512 characters"),
    ],
)
def test_a_bad_token_file_is_refused_without_showing_it(
    tmp_path: Path, text: str, mode: int, says: str
) -> None:
    """The error has the cause and the remedy, never the token."""
    with pytest.raises(ConfigError, match=says) as caught:
        TokenFile("Worker.ReadTokenFile", kept(tmp_path / "token", text, mode))
    assert text not in caught.value.message


def test_a_token_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new token needs no restart; an invalid one leaves the old one valid."""
    monkeypatch.setattr(tokens, "LOOK_S", 0.0)
    path = kept(tmp_path / "token", GOOD)
    token = TokenFile("T", path)
    kept(path, f"{OTHER}\n")
    assert token.text == OTHER
    kept(path, "none")
    assert token.text == OTHER
    path.unlink()
    assert token.text == OTHER
    kept(path, GOOD)
    assert token.text == GOOD


@pytest.mark.parametrize(
    ("bind", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machines_alone(bind: str, *, expected: bool) -> None:
    """A name that others can point elsewhere does not count."""
    assert is_loopback(bind) == expected
    if expected:
        WebAuth(WorkerConfig()).check(bind)
    else:
        with pytest.raises(ConfigError, match=r"Worker\.ReadTokenFile and Worker\.AdminTokenFile"):
            WebAuth(WorkerConfig()).check(bind)
    WebAuth(WorkerConfig.model_validate({"AdminToken": GOOD})).check(bind)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ReadToken": GOOD, "AdminToken": GOOD}, "are the same"),
        ({"ReadToken": GOOD, "ReadTokenFile": "/nowhere"}, "both set"),
        ({"ReadToken": "guess-me"}, "Worker.ReadToken: a token has 22"),
        (
            {"AdminTokenFile": "/nowhere"},
            "Worker.AdminTokenFile: no token can be read from /nowhere: No such file",
        ),
    ],
)
def test_tokens_that_do_not_do_are_refused(settings: dict[str, str], says: str) -> None:
    """The error is raised before the server starts, and shows no token."""
    with pytest.raises(ConfigError, match=says) as caught:
        WebAuth(WorkerConfig.model_validate(settings)).open()
    assert "guess-me" not in caught.value.message


def test_tokens_of_the_settings_are_not_shown_and_nothing_is_made_beside_them(
    tmp_path: Path,
) -> None:
    """No token file is made in the data folder."""
    worker = WorkerConfig.model_validate({"ReadToken": GOOD, "DataDir": str(tmp_path)})
    WebAuth(worker).open()
    assert GOOD not in f"{worker} {worker!r} {worker.model_dump()} {worker.model_dump_json()}"
    assert not any((tmp_path / name).exists() for name in (READ_FILE, ADMIN_FILE))
