"""A worker process for demo and tests: start it, ask it over HTTP, stop or kill it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from famulus.errors import UnavailableError
from famulus.webserver.auth import READ_FILE

# Of the machine's own settings, those about the web views do not count: its tokens are made, in its
# data folder.
WEB = {
    "WORKER__WEBBIND": "127.0.0.1",
    "WORKER__READTOKEN": "",
    "WORKER__READTOKENFILE": "",
    "WORKER__ADMINTOKEN": "",
    "WORKER__ADMINTOKENFILE": "",
}


class WorkerProcess:
    """One `faust -A app worker`.

    *settings* are environment variables for it, its output goes to *log*. *faust* is the beginning
    of every command of its app, *environment* what those commands need to find its cluster.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        log: Path,
        *,
        web_port: int,
        app: str = "app",
        cwd: Path = Path(),
    ) -> None:
        self.log = log
        self.url = f"http://127.0.0.1:{web_port}"
        self.faust = [sys.executable, "-m", "faust", "-A", app]
        self.environment = {**os.environ, **WEB, **settings, "PYTHONUNBUFFERED": "1"}
        self._web_port = web_port
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process; it is ready when `wait_ready` returns."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # our own worker
                [*self.faust, "worker", "-l", "info", "--web-port", str(self._web_port)],
                cwd=self._cwd,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process id. Raises AssertionError before `start`."""
        assert self._process is not None
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, None while the process runs."""
        return self._process.poll() if self._process is not None else None

    def wait_exit(self, timeout_s: float) -> int:
        """Wait until it ends by itself and return the exit code.

        Raises subprocess.TimeoutExpired.
        """
        assert self._process is not None
        return self._process.wait(timeout_s)

    def wait_ready(self, timeout_s: float = 60.0, *, partitions: int = 1) -> None:
        """Wait until at least *partitions* are assigned and their tables restored.

        Raises UnavailableError.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            try:
                owned = sum(
                    len(subscription["next_offsets"])
                    for subscription in self.get("/subscriptions/")
                )
            except OSError:
                owned = 0
            if owned >= partitions:
                return
            time.sleep(0.1)
        raise UnavailableError(
            f"the worker was not ready within {timeout_s:g} s; it says: {self.last_words()}"
        )

    def check(self) -> None:
        """Raise UnavailableError with the end of its log when the process has ended."""
        code = self.exit_code()
        if code is not None:
            raise UnavailableError(
                f"the worker ended with exit code {code}; it says: {self.last_words()}"
            )

    def last_words(self) -> str:
        """Return the line of the log that explains the end best, and where a copy is kept."""
        text = self.log.read_text("utf-8", "replace")
        kept = Path(tempfile.gettempdir(), "famulus-worker.log")
        kept.write_text(text, "utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"Error: |[\w.]+(Error|Exception)\b", line)]
        return f"{(errors or lines or ['nothing'])[-1]} (log: {kept})"

    def get(self, path: str) -> Any:  # Any: JSON
        """Return the JSON at *path* of the web server.

        Raises OSError (HTTPError is one) for another status than 200.
        """
        # Our own http URL.
        with urllib.request.urlopen(self.request(path), timeout=30) as response:  # noqa: S310
            return json.load(response)

    def request(
        self, path: str, token_file: str = READ_FILE, method: str = "GET"
    ) -> urllib.request.Request:
        """Make a request for *path* with the worker's token, without one before it exists."""
        headers = {}
        with suppress(OSError):
            headers["Authorization"] = (
                f"Bearer {(self.data / token_file).read_text('ascii').strip()}"
            )
        # Http, as above.
        return urllib.request.Request(self.url + path, headers=headers, method=method)  # noqa: S310

    @property
    def data(self) -> Path:
        """The data folder of the worker."""
        return self._cwd / self.environment.get("WORKER__DATADIR", "data")

    def answer(self, path: str) -> tuple[int, Any]:
        """Return status and JSON at *path*, also of an error."""
        try:
            return 200, self.get(path)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def rows(self, table: str) -> dict[str, Any]:
        """Every row of a table by its key's text, page by page."""
        rows: dict[str, Any] = {}
        after = ""
        while True:
            page = self.get(f"/tables/{quote(table)}/?limit=1000{after}")
            rows.update({str(key): value for key, value in page["rows"]})
            if page["next"] is None:
                return rows
            after = f"&after={quote(str(page['next']))}"

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal, such as SIGKILL or SIGSTOP."""
        os.kill(self.pid, number)

    def stop(self, timeout_s: float = 30.0) -> int | None:
        """End it as a supervisor would: SIGTERM, and SIGKILL after *timeout_s*.

        Returns the exit code.
        """
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
