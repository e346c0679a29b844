"""Files and folders that must belong to this user, and must not be links.

A link in the place of a file that is opened for writing would truncate its target; in the place of
a token it would use a token of the link's maker. The last part of such a path is therefore never
followed, and the open file is checked.
"""

import errno
import os
import stat
from pathlib import Path

from famulus.errors import ConfigError

ROOT = 0
MADE_MODE = 0o600


def open_owned(path: Path, flags: int, what: str) -> int:
    """Open the file *path*, which must belong to this user, and return its descriptor.

    *what* names it in errors. Raises OSError when it cannot be opened, ConfigError for a link, for
    a file with another name as well, for one of another user, or one that others may write.
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
    """Raise ConfigError unless the open *file* from the settings belongs to this user or root.

    Links to it are allowed, as secrets of Kubernetes have them, if they belong to this user or
    root. Others may not write it.
    """
    _check(os.fstat(file), path, what, owners={os.geteuid(), ROOT})
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode):
        _check_owner(link, path, f"{what}, a link,", {os.geteuid(), ROOT})


def make_folder(path: Path, what: str) -> None:
    """Make the folder *path*, unless it exists, readable by this user only.

    Raises OSError when it cannot be made, ConfigError for a link, and for a folder of another user.
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
