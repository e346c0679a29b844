"""Payloads are private: an error text that quotes one is masked before it is logged or leaves."""

import re
from collections.abc import Iterator

from famulus.serialization.claim_check import is_claim_check
from famulus.serialization.json_codec import json_of
from famulus.serialization.records import ConsumerRecord

# Of an error text; headers stay small so that a dead letter fits where its original did.
TEXT_BYTES_MAX = 256
SEARCHED_CHARACTERS = 4_096  # of a text: what is behind is cut anyway
VALUES_MAX = 10_000  # of one event that are looked for
SHORT = 3  # characters; shorter values say nothing about anybody, and would mask half of every text
MASK = "***"


def masked(text: str, record: ConsumerRecord) -> str:
    """*text* without what *record* carries, in 256 bytes at most and in one line.

    Every text and number of its value and its key is masked, whatever their case, except those of
    one or two characters. Of an event that was redeemed by a claim check nobody has the value any
    more, so nothing is told.
    """
    if is_claim_check(record):
        return MASK
    text = text[:SEARCHED_CHARACTERS]
    lower = text.lower()
    for value in sorted(
        {v.lower() for v in _values(record) if len(v) >= SHORT}, key=len, reverse=True
    ):
        if value in lower:
            text = re.sub(re.escape(value), MASK, text, flags=re.IGNORECASE)
            lower = text.lower()
    return truncate(" ".join(text.split()))


def truncate(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """*text* in at most so many bytes of UTF-8."""
    return text.encode("utf-8", "backslashreplace")[:bytes_max].decode("utf-8", "ignore")


def _values(record: ConsumerRecord) -> Iterator[str]:
    if record.key:
        yield record.key.decode("utf-8", "backslashreplace")
    found = 0
    # None where it is no event: what is said of that comes from us and quotes nothing.
    left = [json_of(record.value)]
    while left and found < VALUES_MAX:
        item = left.pop()
        if isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list):
            left += item
        elif item is not None and not isinstance(item, bool):
            found += 1
            yield str(item)
