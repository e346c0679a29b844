"""What is forgotten: packs of marks that nobody can ask for any more, rows of windows that are closed.

By the stream's time, and some with each group that is settled, so that it costs a little each time.
"""

from collections.abc import Iterable, Mapping

from famulus.state.changelog import PACK, RECORD_OVERHEAD, period_of
from famulus.state.dedupe import Dedupe
from famulus.state.partition_state import Rows
from famulus.state.rocksdb_store import Store
from famulus.state.windows import START_BYTES, TIME_MAX_MS, Window, in_window, start_of

ROWS_AT_ONCE = 500  # of closed windows, removed with each group
PACKS_AT_ONCE = 2  # forgotten with each group: more than a group adds, so that forgetting keeps up


class Expiry:
    """Finds what may be forgotten in the store of one partition.

    *windows* has those of tables by their rows' prefix.

    It remembers how far it has looked, so whoever writes to the store says what was written.
    """

    def __init__(
        self, store: Store, dedupe: Dedupe | None, windows: Mapping[bytes, Window]
    ) -> None:
        self._store = store
        self._dedupe = dedupe
        self._windows = windows
        # Of the packs there are, at least; None: nobody looked.
        self._oldest_period: int | None = None
        self._oldest_start = dict.fromkeys(windows, 0)  # of the windows that have rows, at least
        # Tables that may have rows of windows that no calendar has, of earlier versions.
        self._strays = set(windows)

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
        """Add rows of windows after 9999 or before 1970 to *found*, which sort last; returns the *room* that is left.

        No event reaches them, and no time would remove them.
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
        """*rows* and *packs* come into the store after what was looked at: some may be older than what is there."""
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
    """When the window of a row begins; of one that was written when its table had no windows: never."""
    return start_of(raw) if len(raw) >= START_BYTES else TIME_MAX_MS
