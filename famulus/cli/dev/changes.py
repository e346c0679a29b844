"""Watcher of the project files whose change restarts the worker of `dev`."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from famulus.errors import ConfigError

FOLDERS = "agents", "models", "app"  # of the project, watched recursively
SETTINGS = "appsettings*.json"
STEP_MS = 100  # without a save before a restart, since editors save several files at once
GROUP_MS = 1_000  # after which a restart no longer waits for further saves
KEPT = {".py", ".json"}  # suffixes of files whose deletion is a change too
SHOWN = 3  # file names in one message


class Changes:
    """Files that were saved since the last `take`.

    *saved* is set while there are any, and when the files cannot be watched any more.
    """

    def __init__(self, folder: Path, settings_folder: Path) -> None:
        self.saved = asyncio.Event()
        self.fault: OSError | None = None  # why watching has failed; `saved` is set then
        self._folder = folder.resolve()
        self._roots = sorted({self._folder, settings_folder.resolve()})
        self._found: set[str] = set()
        self._again = asyncio.Event()  # one of `FOLDERS` was created

    def take(self) -> str:
        """Clear the saved files, and return their names as text.

        Raises ConfigError when files cannot be watched.
        """
        if self.fault is not None:
            raise ConfigError(
                f"the files of the project cannot be watched: {self.fault}; "
                "WATCHFILES_FORCE_POLLING=1 looks at them from time to time instead"
            )
        found, self._found = sorted(self._found), set()
        self.saved.clear()
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return ", ".join(found[:SHOWN]) + more

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Watch the files while the context lasts.

        Raises ConfigError when the package watchfiles is missing.
        """
        watch = _watchfiles()
        tasks = [
            asyncio.create_task(self._run(self._folders(watch))),
            asyncio.create_task(self._run(self._top(watch))),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, watching: Coroutine[Any, Any, None]) -> None:
        try:
            await watching
        except (OSError, RuntimeError) as error:  # from the system, such as too many watches
            self.fault = error if isinstance(error, OSError) else OSError(str(error))
            self.saved.set()

    async def _folders(self, watch: Any) -> None:  # Any: the package may be missing
        """Watch those of the project's folders that exist."""
        while True:
            self._again.clear()
            there = [folder for name in FOLDERS if (folder := self._folder / name).is_dir()]
            if not there:
                await self._again.wait()
                continue
            async for found in watch.awatch(
                *there, step=STEP_MS, debounce=GROUP_MS, stop_event=self._again
            ):
                self._note(path for _, path in found)

    async def _top(self, watch: Any) -> None:
        """Watch the settings files, and the creation of one of the folders."""

        def is_of_interest(change: Any, path: str) -> bool:
            name = Path(path).name
            return fnmatch(name, SETTINGS) or (change == watch.Change.added and name in FOLDERS)

        async for found in watch.awatch(
            *self._roots,
            step=STEP_MS,
            debounce=GROUP_MS,
            recursive=False,
            watch_filter=is_of_interest,
        ):
            if any(Path(path).name in FOLDERS for _, path in found):
                self._again.set()
            self._note(path for _, path in found)

    def _note(self, paths: Iterable[str]) -> None:
        for path in map(Path, paths):
            if path.suffix in KEPT or path.exists():  # else a temporary file of an editor
                inside = path.is_relative_to(self._folder)
                self._found.add(str(path.relative_to(self._folder) if inside else path))
                self.saved.set()


def _watchfiles() -> Any:
    try:
        return import_module("watchfiles")
    except ImportError:
        raise ConfigError(
            "dev needs watchfiles: `make install`, or `pip install watchfiles`"
        ) from None
