"""Tests of the seen mark of a redelivery, which the worker and a dry run find alike."""

from typing import Any

import pytest

from famulus.deadletter.redelivery import Redelivery
from famulus.state.dedupe import Dedupe, mark_key, redelivery_key

HEADERS = [("ce_source", b"s"), ("ce_id", b"1")]


def back(**changes: Any) -> Redelivery:
    """Return a redriven event."""
    return Redelivery("t", 2, 7, 0, b"k", b"v", HEADERS, "redrive", hops=1, **changes)


@pytest.mark.parametrize(
    ("of", "dedupe", "key"),
    [
        (back(), Dedupe(1000), mark_key(b"s#1")),
        (back(), None, mark_key(b"t/2/7")),
        (back(), Dedupe(1000, identity=str), b""),
        (back(handler="h"), Dedupe(1000), mark_key(b"s#1\0h\0000\0001")),
        (back(handler="h", stage=2), None, mark_key(b"s#1\0h\0002\0001")),
    ],
)
def test_what_a_mark_is_kept_under(of: Redelivery, dedupe: Dedupe | None, key: bytes) -> None:
    """The key is the event's id, or its coordinates where two events may share an id.

    A redelivery to one handler has a mark of its own each time.

    With an identity function the key is known only after decoding, hence the empty key.
    """
    assert redelivery_key(of, dedupe) == key
