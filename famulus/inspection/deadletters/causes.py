"""Groups of dead letters that failed for the same cause."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from famulus.deadletter.dead_letter import Cause
from famulus.deadletter.index import Entry


@dataclass(slots=True)
class CauseGroup:
    """Dead letters of one cause; *message* is that of the newest."""

    cause: Cause
    count: int
    first_ms: int
    last_ms: int
    keys: list[bytes]  # without repetitions, in the order of their first dead letters
    newest: Entry
    message: str


def grouped(
    entries: Iterable[Entry], messages: dict[Cause, tuple[int, str]]
) -> Iterator[CauseGroup]:
    """Group *entries* by their causes, the most frequent cause first.

    *messages* are those of a `DeadLetterIndex`: the newest of each cause, with its time.
    """
    of: dict[Cause, list[Entry]] = {}
    for entry in entries:
        of.setdefault(entry.cause, []).append(entry)
    for cause, found in sorted(of.items(), key=lambda pair: (-len(pair[1]), pair[0].id)):
        newest = max(found, key=lambda entry: entry.at_ms)
        keys = list(dict.fromkeys(entry.key for entry in found if entry.key is not None))
        yield CauseGroup(
            cause,
            len(found),
            min(e.at_ms for e in found),
            newest.at_ms,
            keys,
            newest,
            messages.get(cause, (0, ""))[1],
        )
