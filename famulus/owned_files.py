"""Files and folders that must be ours: nobody else can have put them there, and no link leads out of them.

A link where we open a file for writing has us truncate whatever it leads to; one where we read a
token has us take the token of whoever made the link. So the last part of such a path is never
followed, and what is open is looked at.
"""

import errno
import os
import stat
from pathlib import Path

from famulus.errors import ConfigError

ROOT = 0
MADE_MODE = 0o600


def open_owned(path: Path, flags: int, what: str) -> int:
    """Open the file *path* of ours: a descriptor.

    *what* names it in words. OSError when it cannot be opened.

    Raises ConfigError for a link, for a file that has another name as well, for one of another
    user, or that others may write.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, MADE_MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(
                f"{what} {path} is a link, and links are not followed here: remove it"
            ) from None
        raise
    try:
        found = os.fstat(file)
        _check_alone(found, path, what)
        _check(found, path, what)
    except BaseException:
        os.close(file)
        raise
    return file


def check_given(file: int, path: Path, what: str) -> None:
    """Raise ConfigError unless the open *file*, which somebody names in the settings, is ours or root's.

    It may be reached by links, as secrets of Kubernetes are, when these are ours or root's. Others
    may not write it.
    """
    _check(os.fstat(file), path, what, owners={os.geteuid(), ROOT})
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode):
        _check_owner(link, path, f"{what}, a link,", {os.geteuid(), ROOT})


def make_folder(path: Path, what: str) -> None:
    """Make the folder *path*, unless it is there, and have nobody but us look into it.

    OSError when it cannot be.

    Raises ConfigError for a link, and for a folder of another user.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise ConfigError(
                f"{what} {path} is a link, and links are not followed here: set Worker.DataDir "
                "to where it leads, "
                "or remove it"
            ) from None
        raise error from None
    try:
        _check_owner(os.fstat(folder), path, what, {os.geteuid()})
        os.fchmod(folder, 0o700)
    finally:
        os.close(folder)


def _check_alone(found: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{what} {path} is no plain file: remove it")
    if found.st_nlink > 1:
        raise ConfigError(f"{what} {path} is a link, it has another name as well: remove it")


def _check(found: os.stat_result, path: Path, what: str, owners: set[int] | None = None) -> None:
    _check_owner(found, path, what, owners or {os.geteuid()})
    if found.st_mode & 0o022:
        raise ConfigError(
            f"{what} {path} can be written by other users of this machine: chmod 600 {path}"
        )


def _check_owner(found: os.stat_result, path: Path, what: str, owners: set[int]) -> None:
    if found.st_uid not in owners:
        raise ConfigError(
            f"{what} {path} belongs to another user (uid {found.st_uid}, this process has "
            f"{os.geteuid()}): "
            f"run as that user, or remove it, or chown it"
        )
