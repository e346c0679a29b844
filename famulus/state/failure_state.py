"""What a partition remembers of events that fail: how often each was tried, and which keys wait behind a dead letter.

Kept as rows of the state changelog, so that a worker that dies does not begin to count anew, and
nothing overtakes a dead letter of its key after a restart.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from famulus.state.changelog import ATTEMPTS, DEAD, offset_key, offset_of


class AttemptCount(NamedTuple):
    """How often a handler has failed at an event, when first, and when it may try again (milliseconds since 1970)."""

    attempts: int = 0
    first_ms: int = 0
    due_ms: int = 0


Attempts = dict[str, AttemptCount]  # by handler
_attempts = msgspec.json.Decoder(Attempts)


class FailureState:
    """The troubles of one partition, as of the newest event, settled or about to be.

    Whoever changes them writes the row that the method returns.
    """

    def __init__(self, stored: Iterable[tuple[bytes, bytes]] = ()) -> None:
        # By offset of the source, of an earlier owner of the partition.
        self.attempts: dict[int, Attempts] = {}
        # Key -> the offsets of its dead letters, ascending.
        self.sequences: dict[bytes, list[int]] = {}
        self.dead = 0
        # How often events held a worker up, by offset and stage; or 0.
        self.held: Mapping[tuple[int, int], int] = {}
        self.any = False  # whether there are any, which is looked at for every event
        for key, value in stored:
            if key.startswith(ATTEMPTS):
                self.attempts[offset_of(key)] = _attempts.decode(value)
            else:
                self._add(offset_of(key), value)
            self.any = True

    def tried(self, offset: int) -> Attempts:
        """How often an earlier owner of the partition tried the event; it is only told once."""
        attempts = self.attempts.pop(offset, {})
        self._look()
        return attempts

    def note_held(self, held: Mapping[tuple[int, int], int]) -> None:
        """Note how often events have held a worker up, by offset and stage."""
        self.held = held
        self._look()

    def is_behind(self, sequence: bytes, offset: int) -> bool:
        """Whether an earlier event of the same key is dead."""
        dead = self.sequences.get(sequence)
        return dead is not None and dead[0] < offset

    def is_full(self, sequence: bytes, offset: int, most: int) -> bool:
        """Whether there are *most* dead letters, and this would be one more."""
        return self.dead >= most and offset not in self.sequences.get(sequence, ())

    def died(self, sequence: bytes, offset: int) -> tuple[bytes, bytes]:
        """Note a dead letter: what comes after it waits until it is back."""
        if offset not in self.sequences.get(sequence, ()):
            self._add(offset, sequence)
        return offset_key(DEAD, offset), sequence

    def came_back(self, sequence: bytes, offset: int) -> tuple[bytes, None] | None:
        """A dead letter was handled, or dropped. None when it was not known as dead."""
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
    """The row that says how often the event at *offset* was tried; None: it is done with."""
    return offset_key(ATTEMPTS, offset), None if attempts is None else msgspec.json.encode(attempts)
