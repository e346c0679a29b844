"""How one JSON value differs from another, field by field. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

What = Literal["missing", "added", "type", "value"]
ORDER: tuple[What, ...] = ("missing", "added", "type", "value")  # what says most comes first
_MISSING: Any = object()


@dataclass(frozen=True)
class Difference:
    """At *path* the value is *here*, and *there* in what it is compared with; a side that has nothing is None."""

    path: str
    what: What
    here: Any
    there: Any


def differences(here: Any, there: Any) -> list[Difference]:  # Any: JSON
    """In what *here* differs from *there*: fields that are missing or added, have another type, then another value."""
    return sorted(_found(here, there), key=lambda difference: ORDER.index(difference.what))


def _found(here: Any, there: Any) -> Iterator[Difference]:
    left = [("$", here, there)]
    while left:
        path, one, other = left.pop()
        if one is _MISSING:
            yield Difference(path, "missing", None, other)
        elif other is _MISSING:
            yield Difference(path, "added", one, None)
        elif type_of(one) != type_of(other):
            yield Difference(path, "type", one, other)
        elif isinstance(one, dict):
            names = [*other, *(name for name in one if name not in other)]
            left += [(_inside(path, n), one.get(n, _MISSING), other.get(n, _MISSING)) for n in reversed(names)]
        elif isinstance(one, list):
            pairs = [(one[n : n + 1], other[n : n + 1]) for n in range(max(len(one), len(other)))]
            left += [
                (f"{path}[{n}]", mine[0] if mine else _MISSING, its[0] if its else _MISSING)
                for n, (mine, its) in reversed(list(enumerate(pairs)))
            ]
        elif one != other:
            yield Difference(path, "value", one, other)


def type_of(value: Any) -> str:
    """What JSON calls the type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
