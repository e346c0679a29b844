"""Expiry of state: packs of marks that left the window, and rows of closed windows.

Expiry follows stream time. A limited amount expires with each checkpoint, so that each one costs
little.
"""

from collections.abc import Iterable, Mapping

from famulus.state.changelog import PACK, RECORD_OVERHEAD, period_of
from famulus.state.dedupe import Dedupe
from famulus.state.partition_state import Rows
from famulus.state.rocksdb_store import Store
from famulus.state.windows import START_BYTES, TIME_MAX_MS, Window, in_window, start_of

ROWS_AT_ONCE = 500  # of closed windows, removed with each checkpoint
PACKS_AT_ONCE = 2  # removed with each checkpoint: more than it adds, so that expiry keeps up


class Expiry:
    """Finds the expired packs and rows in the store of one partition.

    *windows* has the windows of tables by the prefix of their rows.

    The object remembers how far it has searched, so the writer of the store must report each write
    to `written`.
    """

    def __init__(
        self, store: Store, dedupe: Dedupe | None, windows: Mapping[bytes, Window]
    ) -> None:
        self._store = store
        self._dedupe = dedupe
        self._windows = windows
        # Lower bound of the periods of all packs; None: not known yet.
        self._oldest_period: int | None = None
        self._oldest_start = dict.fromkeys(windows, 0)  # lower bound of the windows with rows
        # Tables that may have rows of windows outside 1970 to 9999, written by earlier versions.
        self._strays = set(windows)

    def packs(self, stream_ms: int) -> dict[bytes, bytes]:
        """Return the oldest packs whose marks have all left the window, by key.

        Returns at most PACKS_AT_ONCE of them.
        """
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
        """Return deletions of rows whose windows have expired.

        Their number is limited by ROWS_AT_ONCE and by *room*, the bytes left in the record batch.
        """
        found: Rows = {}
        for prefix, window in self._windows.items():
            limit_ms = window.expired_before(stream_ms)
            if prefix in self._strays:
                room = self._add_strays(prefix, found, room)
            if self._oldest_start[prefix] >= limit_ms:
                continue
            for key, _ in self._store.items(
                prefix, in_window(max(self._oldest_start[prefix], 0), b"")
            ):
                self._oldest_start[prefix] = _start(key[len(prefix) :])
                room -= len(key) + RECORD_OVERHEAD
                if self._oldest_start[prefix] >= limit_ms or len(found) >= ROWS_AT_ONCE or room < 0:
                    break
                found[key] = None
            else:
                self._oldest_start[prefix] = limit_ms
        return found

    def _add_strays(self, prefix: bytes, found: Rows, room: int) -> int:
        """Add to *found* the rows of windows after 9999 or before 1970, which sort last.

        No event reaches them, and stream time would never remove them. Returns the bytes of *room*
        left.
        """
        window = self._windows[prefix]
        for key, _ in self._store.items(prefix, in_window(TIME_MAX_MS + 1, b"")):
            if not window.is_stray(_start(key[len(prefix) :])):
                continue
            if len(found) >= ROWS_AT_ONCE or room < len(key) + RECORD_OVERHEAD:
                return room
            room -= len(key) + RECORD_OVERHEAD
            found[key] = None
        self._strays.discard(prefix)
        return room

    def written(self, rows: Rows, packs: Iterable[bytes]) -> None:
        """Note that *rows* and *packs* are about to be written to the store.

        Some may be older than where the search has arrived.
        """
        for prefix in self._windows:
            starts = [
                _start(key[len(prefix) :])
                for key, value in rows.items()
                if value is not None and key.startswith(prefix)
            ]
            self._oldest_start[prefix] = min([self._oldest_start[prefix], *starts])
        if self._oldest_period is not None:
            self._oldest_period = min([self._oldest_period, *map(period_of, packs)])


def _start(raw: bytes) -> int:
    """Return the start of a row's window.

    A row that was written when its table had no windows has the newest possible start.
    """
    return start_of(raw) if len(raw) >= START_BYTES else TIME_MAX_MS
