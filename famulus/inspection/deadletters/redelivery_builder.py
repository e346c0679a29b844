"""A letter on its way back, whole: with the value that it had, or that somebody gave it."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from famulus.deadletter.dead_letter import DeadLetter, first_digest, parse_dead_letter
from famulus.deadletter.index import Entry
from famulus.deadletter.record import DROPPED, our_headers
from famulus.deadletter.redelivery import Action, Redelivery, returning
from famulus.inspection.deadletters.reader import Reader

BATCH = 500  # letters in memory at once
BATCH_BYTES = 16 * 2**20
BATCHES_PER_S = 4  # where there is a rate


class StaysError(Exception):
    """Why a letter cannot be sent back."""


async def sent_back(
    reader: Reader, record: Any, action: Action, edited: bytes | None
) -> tuple[DeadLetter, Redelivery]:  # Any: aiokafka is untyped
    """What *record*, a letter or what is left of it, says, and what sends it back with the *edited* value or its own.

    Raises StaysError when it has none any more, or only a part of what it was. Who drops a letter
    needs no value.
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
    """The event's value, from where it came if it was too large for the letter.

    Raises StaysError when it is gone.
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
    """*entries* in pieces that are sent at once: few where there is a *rate*, and none too large for the memory."""
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
