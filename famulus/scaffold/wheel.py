"""The wheel that a project installs when the engine did not come from a package index."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from famulus.errors import UnavailableError

FOLDER = "wheels"
PATTERN = "famulus-*.whl"


def source_of_engine() -> Path | None:
    """Return the wheel or the source folder that the engine was installed from.

    None stands for a package index. pip and uv note the source in direct_url.json (PEP 610).
    """
    noted = metadata.distribution("famulus").read_text("direct_url.json")
    if noted is None:
        return None
    url = urlsplit(json.loads(noted)["url"])
    return Path(url2pathname(url.path)) if url.scheme == "file" else None


def add_wheel(source: Path, project: Path) -> Path:
    """Put the wheel of *source* into the project, in the place of an earlier one; return its path.

    A source folder is built. Raises UnavailableError when the source is gone or cannot be built.
    """
    folder = project / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    earlier = set(folder.glob(PATTERN))
    if source.is_dir():
        _build(source, folder)
    elif source.suffix == ".whl" and source.is_file():
        shutil.copy(source, folder)
    else:
        raise UnavailableError(
            f"{source}, which this famulus was installed from, is gone: "
            "install famulus from a wheel that is still there, or from a package index"
        )
    [made] = [wheel for wheel in folder.glob(PATTERN) if _is_of_engine(wheel)]
    for wheel in earlier - {made}:
        wheel.unlink()
    return made


def _is_of_engine(wheel: Path) -> bool:
    return wheel.name.startswith(f"famulus-{metadata.version('famulus')}-")


def _build(source: Path, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UnavailableError(
            f"no wheel of {source} could be built ({reason}): pip install hatchling"
        )
