"""Kinds of failures for which events become dead letters.

The header `famulus-failure` has the name of the kind. A new kind is one more line here, and the
code that raises it.
"""

from enum import StrEnum
from typing import Self


class FailureKind(StrEnum):
    """A reason for a dead letter: its name on the wire, and its explanation for people.

    *may_quote* tells if the error's text may quote the payload, so that it has to be masked. Only
    the engine's own texts are known to quote no value.
    """

    explanation: str
    may_quote: bool

    POISON = "poison", "its bytes are not the event that they should be", False
    UNKNOWN_TYPE = "unknown_type", "its type has no handler here", True
    PERMANENT = "permanent", "its handler said that it will never work", True
    REJECTED = "rejected", "its handler does not want it", True
    EXHAUSTED = "exhausted", "its handler failed as often as it may", True
    TIMEOUT = "timeout", "its handler took too long as often as it may", True
    PARKED = "parked", "an earlier event of its key is here", False

    def __new__(cls, value: str, explanation: str, may_quote: bool) -> Self:  # noqa: FBT001  # see above
        """Create a member whose value is its name on the wire."""
        kind = str.__new__(cls, value)
        kind._value_, kind.explanation, kind.may_quote = value, explanation, may_quote
        return kind


def explanation_of(kind: str) -> str:
    """Return the explanation of a *kind* in a record, empty for one of a later version."""
    known = FailureKind._value2member_map_.get(kind)
    return known.explanation if isinstance(known, FailureKind) else ""
