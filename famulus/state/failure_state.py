"""Failure state of a partition: attempts per event, and keys that wait behind a dead letter.

The state is kept as rows of the state changelog. A worker that takes over therefore continues the
counts, and no event overtakes a dead letter of its key after a restart.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from famulus.state.changelog import ATTEMPTS, DEAD, offset_key, offset_of


class AttemptCount(NamedTuple):
    """Number of failed attempts of a handler at an event.

    *first_ms* is the time of the first one and *due_ms* the time of the next attempt (milliseconds
    since 1970).
    """

    attempts: int = 0
    first_ms: int = 0
    due_ms: int = 0


Attempts = dict[str, AttemptCount]  # by handler
_attempts = msgspec.json.Decoder(Attempts)


class FailureState:
    """The failure state of one partition, including changes that are not yet durable.

    A caller that changes the state writes the row that the method returns.
    """

    def __init__(self, stored: Iterable[tuple[bytes, bytes]] = ()) -> None:
        # By source offset: attempts made by an earlier owner of the partition.
        self.attempts: dict[int, Attempts] = {}
        # Key -> the offsets of its dead letters, ascending.
        self.sequences: dict[bytes, list[int]] = {}
        self.dead = 0
        # How often events blocked the event loop of a worker, by offset and retry stage.
        self.held: Mapping[tuple[int, int], int] = {}
        self.any = False  # whether there is any state; a fast check for every event
        for key, value in stored:
            if key.startswith(ATTEMPTS):
                self.attempts[offset_of(key)] = _attempts.decode(value)
            else:
                self._add(offset_of(key), value)
            self.any = True

    def tried(self, offset: int) -> Attempts:
        """Return the attempts that an earlier owner of the partition made at the event.

        The counts are removed, so a second call returns none.
        """
        attempts = self.attempts.pop(offset, {})
        self._look()
        return attempts

    def note_held(self, held: Mapping[tuple[int, int], int]) -> None:
        """Replace the counts of how often events have blocked a worker."""
        self.held = held
        self._look()

    def is_behind(self, sequence: bytes, offset: int) -> bool:
        """Return True if an earlier event of the same key is a dead letter."""
        dead = self.sequences.get(sequence)
        return dead is not None and dead[0] < offset

    def is_full(self, sequence: bytes, offset: int, most: int) -> bool:
        """Return True if the event would be one dead letter more than *most*."""
        return self.dead >= most and offset not in self.sequences.get(sequence, ())

    def died(self, sequence: bytes, offset: int) -> tuple[bytes, bytes]:
        """Note a dead letter and return its row.

        Later events of its key wait until the dead letter is redelivered or dropped.
        """
        if offset not in self.sequences.get(sequence, ()):
            self._add(offset, sequence)
        return offset_key(DEAD, offset), sequence

    def came_back(self, sequence: bytes, offset: int) -> tuple[bytes, None] | None:
        """Remove a dead letter that was handled or dropped, and return its row.

        Returns None when the dead letter was not known.
        """
        dead = self.sequences.get(sequence, [])
        if offset not in dead:
            return None
        dead.remove(offset)
        self.dead -= 1
        if not dead:
            del self.sequences[sequence]
            self._look()
        return offset_key(DEAD, offset), None

    def _look(self) -> None:
        self.any = bool(self.attempts or self.sequences or self.held)

    def _add(self, offset: int, sequence: bytes) -> None:
        insort(self.sequences.setdefault(sequence, []), offset)
        self.dead += 1
        self.any = True


def attempts_row(
    offset: int, attempts: Mapping[str, AttemptCount] | None
) -> tuple[bytes, bytes | None]:
    """Return the row with the attempts at the event at *offset*.

    None for *attempts* means that the event is completed; the row is then a deletion.
    """
    return offset_key(ATTEMPTS, offset), None if attempts is None else msgspec.json.encode(attempts)
