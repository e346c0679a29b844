"""Masking of payload values in error texts, before they are logged or written to Kafka."""

import re
from collections.abc import Iterator

from famulus.serialization.claim_check import is_claim_check
from famulus.serialization.json_codec import json_of
from famulus.serialization.records import ConsumerRecord

# Size of an error text. Headers stay small, so that a dead letter fits where its original did.
TEXT_BYTES_MAX = 256
SEARCHED_CHARACTERS = 4_096  # at the start of a text; the rest is cut anyway
VALUES_MAX = 10_000  # values of one event that are searched for
SHORT = 3  # characters; shorter values reveal nothing, and would mask half of every text
MASK = "***"


def masked(text: str, record: ConsumerRecord) -> str:
    """Return *text* without the values of *record*, in one line of at most 256 bytes.

    Every text and number of the value, and the key, is masked in any case (upper or lower), except
    those of one or two characters. For an event that came as a claim check, the payload is not
    available here, so the whole text is masked.
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
    """Return *text* in at most *bytes_max* bytes of UTF-8."""
    return text.encode("utf-8", "backslashreplace")[:bytes_max].decode("utf-8", "ignore")


def _values(record: ConsumerRecord) -> Iterator[str]:
    if record.key:
        yield record.key.decode("utf-8", "backslashreplace")
    found = 0
    # None for a value that is not JSON. The error text of such a value is this package's own, and
    # quotes nothing.
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
