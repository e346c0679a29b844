"""Workers that somebody else started, asked as if they were one: containers, for example."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from famulus.dev.worker import WorkerProcess
from famulus.errors import UnavailableError


class RunningWorkers:
    """The workers of one group whose web views are at *ports* of this machine.

    Nothing here starts or ends them.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self._workers = [WorkerProcess({}, Path(), web_port=port) for port in ports]

    def wait_ready(self, timeout_s: float = 120.0, *, partitions: int = 1) -> None:
        """Wait until they own at least *partitions*, and each of them at least one.

        Raises UnavailableError.
        """
        deadline = time.monotonic() + timeout_s
        owned: list[int] = []
        while time.monotonic() < deadline:
            try:
                owned = [
                    sum(len(s["next_offsets"]) for s in w.get("/subscriptions/"))
                    for w in self._workers
                ]
            except OSError:
                owned = []
            if owned and all(owned) and sum(owned) >= partitions:
                return
            time.sleep(0.2)
        raise UnavailableError(
            f"the workers were not ready within {timeout_s:g} s: they own {owned or 'nothing'} "
            f"of {partitions} "
            "partitions; look at their logs"
        )

    def get(self, path: str) -> list[dict[str, Any]]:
        """Return the subscriptions of all workers, with their duplicates added up.

        No other *path* is known. Raises OSError when a worker does not answer.
        """
        assert path == "/subscriptions/"
        duplicates: Counter[str] = Counter()
        for worker in self._workers:
            for subscription in worker.get(path):
                duplicates[subscription["topic"]] += subscription["duplicate"]
        return [{"topic": topic, "duplicate": count} for topic, count in duplicates.items()]

    def rows(self, table: str) -> dict[str, Any]:
        """Every row of a table, whichever of them has it.

        Raises OSError when one does not answer.
        """
        rows: dict[str, Any] = {}
        for worker in self._workers:
            rows.update(worker.rows(table))
        return rows

    def check(self) -> None:
        """Raise UnavailableError when a worker does not answer, or has a stuck event."""
        for worker in self._workers:
            try:
                worker.get("/livez")
            except OSError as error:
                raise UnavailableError(
                    f"the worker at {worker.url} is not well: {error}; look at its log"
                ) from None

    def last_words(self) -> str:
        """Return a hint: the logs of these workers are elsewhere."""
        return "look at their logs"
