"""Letters that failed for the same cause, as one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from famulus.deadletter.dead_letter import Cause
from famulus.deadletter.index import Entry


@dataclass(slots=True)
class CauseGroup:
    """The letters of one cause. *message* is that of the newest."""

    cause: Cause
    count: int
    first_ms: int
    last_ms: int
    keys: list[bytes]  # each once, in the order of their coming
    newest: Entry
    message: str


def grouped(
    entries: Iterable[Entry], messages: dict[Cause, tuple[int, str]]
) -> Iterator[CauseGroup]:
    """*entries* by their causes, the most frequent first. *messages* are a `Register`'s."""
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
