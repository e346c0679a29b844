"""Tokens of the web server: from settings or files, or made for loopback."""

import os
import re
import secrets
import time
from contextlib import suppress
from enum import IntEnum
from pathlib import Path

import structlog

from famulus.errors import ConfigError
from famulus.owned_files import check_given, open_owned

log = structlog.get_logger()
LOOK_S = 1.0  # a token file that changed is noticed within this time
LENGTH_MAX = 512
# 22 random characters of base64 are 128 bits.
_SHAPE = re.compile(rf"[A-Za-z0-9._~+/=-]{{22,{LENGTH_MAX}}}")


class Access(IntEnum):
    """The rights of a sender; a higher one includes the lower ones."""

    NONE = 0
    READ = 1
    ADMIN = 2


class BadTokenError(ConfigError):
    """A file holds no good token."""


class Token:
    """A token that the settings give; *name* is the setting.

    Raises ConfigError for one that could be guessed.
    """

    def __init__(self, name: str, text: str) -> None:
        self.text = checked(name, text)


class TokenFile:
    """A token in a file of its own, read again when it changes.

    Raises ConfigError when the file holds none.

    *is_made*: we have made it, so it is ours alone and no link; see `famulus.owned_files`.
    """

    def __init__(self, name: str, path: Path, *, is_made: bool = False) -> None:
        self._is_made = is_made
        self._name = name
        self._path = path
        self._look_at = 0.0
        self._seen = self._version()
        self._text = read_token(name, path, is_made=is_made)

    @property
    def text(self) -> str:
        """The token.

        While a changed file holds none, the one before still counts, and the log says so.
        """
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            if (version := self._version()) != self._seen:
                self._seen = version
                try:
                    self._text = read_token(self._name, self._path, is_made=self._is_made)
                except ConfigError as error:
                    log.warning(
                        "a token file is wrong, the token before still counts", why=error.message
                    )
        return self._text

    def _version(self) -> tuple[int, ...]:
        with suppress(OSError):
            stat = self._path.stat(follow_symlinks=not self._is_made)
            return stat.st_ino, stat.st_mtime_ns, stat.st_size, stat.st_mode
        return ()


def read_token(name: str, path: Path, *, is_made: bool = False) -> str:
    """Read the token in *path*, a file that other users must not be able to read.

    *name* is the setting, for the error. Raises ConfigError.
    """
    what = f"{name}: the token file"
    try:
        found = (
            open_owned(path, os.O_RDONLY, what)
            if is_made
            else os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        )
        with os.fdopen(found, encoding="ascii") as file:
            if not is_made:
                check_given(found, path, what)
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(LENGTH_MAX + 2).strip()
    except OSError as error:
        raise BadTokenError(
            f"{name}: no token can be read from {path}: {error.strerror or error}"
        ) from None
    except UnicodeDecodeError:
        raise BadTokenError(f"{name}: no token can be read from {path}: it is not ASCII") from None
    if mode & 0o007:
        raise BadTokenError(
            f"{name}: {path} is open to every user of this machine: chmod 600 {path}, and use "
            "a new token"
        )
    return checked(name, text)


def made_token(name: str, path: Path) -> TokenFile:
    """Return the token in *path*, replaced by a random one if it is missing or bad.

    The file is for this user alone. Raises ConfigError when the folder cannot be written, or the
    file belongs to another user.
    """
    with suppress(BadTokenError):
        return TokenFile(name, path, is_made=True)
    fresh = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        # Its mode is there before its content is, and a link that somebody left there is not
        # followed.
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
        fresh.replace(path)
    except OSError as error:
        raise ConfigError(
            f"{name}: no token can be written to {path}: {error.strerror}; or set one"
        ) from None
    return TokenFile(name, path, is_made=True)


def checked(name: str, text: str) -> str:
    """*text* itself.

    Raises ConfigError, which does not show it, when it is too short or not a token's characters.
    """
    if not _SHAPE.fullmatch(text):
        raise BadTokenError(
            f"{name}: a token has 22 to {LENGTH_MAX} characters, of letters, digits and ._~+/=-; "
            "`openssl rand -hex 32` makes one"
        )
    return text
