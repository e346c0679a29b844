"""How a record that comes back is recognised: the same by the worker and by a dry run."""

from typing import Any

import pytest

from famulus.deadletter.redelivery import Redelivery
from famulus.state.dedupe import Dedupe, mark_key, redelivery_key

HEADERS = [("ce_source", b"s"), ("ce_id", b"1")]


def back(**changes: Any) -> Redelivery:
    """An event that was redriven."""
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
    """Its id, unless two events may have one; of one handler each time that it came back; or what decoding tells."""
    assert redelivery_key(of, dedupe) == key
