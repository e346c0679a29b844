"""Builder of redeliveries from dead letters, with the original or an edited value."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from famulus.deadletter.dead_letter import DeadLetter, first_digest, parse_dead_letter
from famulus.deadletter.index import Entry
from famulus.deadletter.record import DROPPED, our_headers
from famulus.deadletter.redelivery import Action, Redelivery, returning
from famulus.inspection.deadletters.reader import Reader

BATCH = 500  # dead letters in memory at once
BATCH_BYTES = 16 * 2**20
BATCHES_PER_S = 4  # if a rate is set


class StaysError(Exception):
    """Reason why a dead letter cannot be sent back."""


async def sent_back(
    reader: Reader, record: Any, action: Action, edited: bytes | None
) -> tuple[DeadLetter, Redelivery]:  # Any: aiokafka is untyped
    """Return the dead letter in *record*, and the redelivery of its event.

    The redelivery has the *edited* value, or the event's own if that is None. *record* is None when
    it does not exist any more. Raises StaysError then, when the value is gone, or when headers or
    key were too large for the dead letter. A drop needs neither value, headers nor key.
    """
    if record is None:
        raise StaysError("the letter is not there any more")
    letter = parse_dead_letter(record)
    if action != "drop" and DROPPED in our_headers(record.headers):
        raise StaysError("its headers, or its key, were too large for the letter: drop it")
    if edited is not None:
        return letter, returning(record, action, edited, first_digest(record, letter))
    value = record.value if action == "drop" else await value_of(reader, record, letter)
    return letter, returning(record, action, value)


async def value_of(reader: Reader, record: Any, letter: DeadLetter) -> bytes | None:
    """Return the event's value, read from its origin if the dead letter lacks it.

    A value that is too large for a dead letter is left out of it. Raises StaysError when the event
    at the origin is gone or is another one.
    """
    if not letter.digest:
        value: bytes | None = record.value
        return value
    origin = letter.id.origin
    there = await reader.one(*origin)
    gone = f"its value ({letter.value_bytes} bytes) was too large for the letter"
    if there is None or there.value is None:
        raise StaysError(f"{gone}, and the event is not at {origin} any more")
    if sha256(there.value).hexdigest() != letter.digest:
        raise StaysError(f"{gone}, and another one is at {origin} now")
    found: bytes = there.value
    return found


def batches(entries: Sequence[Entry], rate: int) -> Iterator[Sequence[Entry]]:
    """Split *entries* into batches that are sent at once.

    A batch has at most `BATCH` entries and `BATCH_BYTES` bytes. With a *rate* (entries per second)
    batches are so small that there are `BATCHES_PER_S`.
    """
    count = min(BATCH, max(1, rate // BATCHES_PER_S)) if rate else BATCH
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if len(batch) == count or (batch and size + entry.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size
    if batch:
        yield batch
