"""What is forgotten: packs of marks that nobody can ask for any more, rows of windows that are closed.

By the stream's time, and some with each group that is settled, so that it costs a little each time.
"""

from collections.abc import Iterable, Mapping

from app.state.dedupe import Dedupe
from app.state.partition import Rows
from app.state.windows import Window, in_window, start_of
from app.storage.changelog import PACK, RECORD_OVERHEAD, period_of
from app.storage.store import Store

ROWS_AT_ONCE = 500  # of closed windows, removed with each group
PACKS_AT_ONCE = 2  # forgotten with each group: more than a group adds, so that forgetting keeps up


class Expiry:
    """Finds what may be forgotten in the store of one partition. *windows* has those of tables by their rows' prefix.

    It remembers how far it has looked, so whoever writes to the store says what was written.
    """

    def __init__(self, store: Store, dedupe: Dedupe | None, windows: Mapping[bytes, Window]) -> None:
        self._store = store
        self._dedupe = dedupe
        self._windows = windows
        self._oldest_period: int | None = None  # of the packs there are, at least; None: nobody looked
        self._oldest_start = dict.fromkeys(windows, 0)  # of the windows that have rows, at least

    def packs(self, stream_ms: int) -> dict[bytes, bytes]:
        """The oldest packs, if nobody can ask for their marks any more."""
        if self._dedupe is None:
            return {}
        expired_ms = stream_ms - self._dedupe.longest_ms - self._dedupe.period_ms
        if self._oldest_period is not None and self._oldest_period >= expired_ms:
            return {}
        found: dict[bytes, bytes] = {}
        for key, value in self._store.items(PACK):
            self._oldest_period = period_of(key)
            if self._oldest_period >= expired_ms or len(found) == PACKS_AT_ONCE:
                break
            found[key] = value
        else:
            self._oldest_period = None if found else stream_ms
        return found

    def rows(self, stream_ms: int, room: int) -> Rows:
        """Rows of windows that are kept no more, as deleted: as many as *room* bytes of a record batch have."""
        found: Rows = {}
        for prefix, window in self._windows.items():
            limit_ms = window.expired_before(stream_ms)
            if self._oldest_start[prefix] >= limit_ms:
                continue
            for key, _ in self._store.items(prefix, in_window(max(self._oldest_start[prefix], 0), b"")):
                self._oldest_start[prefix] = start_of(key[len(prefix) :])
                room -= len(key) + RECORD_OVERHEAD
                if self._oldest_start[prefix] >= limit_ms or len(found) >= ROWS_AT_ONCE or room < 0:
                    break
                found[key] = None
            else:
                self._oldest_start[prefix] = limit_ms
        return found

    def written(self, rows: Rows, packs: Iterable[bytes]) -> None:
        """*rows* and *packs* come into the store after what was looked at: some may be older than what is there."""
        for prefix in self._windows:
            starts = [start_of(key[len(prefix) :]) for key, value in rows.items()
                      if value is not None and key.startswith(prefix)]  # fmt: skip
            self._oldest_start[prefix] = min([self._oldest_start[prefix], *starts])
        if self._oldest_period is not None:
            self._oldest_period = min([self._oldest_period, *map(period_of, packs)])
