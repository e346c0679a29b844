"""Differences between two JSON values, field by field. Pure.

Time and memory are proportional to the size of the two values, however deep they are and however
long their names: a path is stored as one step with a reference to the step above, and is written
out, up to a limit, only for differences that are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Literal, NamedTuple

What = Literal["missing", "added", "type", "value"]
ORDER: tuple[What, ...] = ("missing", "added", "type", "value")  # the most telling first
KEPT_MAX = 1_000  # differences of one kind that are kept; further ones are only counted
PATH_MAX = 1_000  # characters of a path
_MISSING: Any = object()


@dataclass(frozen=True)
class Difference:
    """One difference: *here* is the value at *path*, *there* the one of the compared value.

    A side without a value is None.
    """

    path: str
    what: What
    here: Any
    there: Any


class Differences(list[Difference]):
    """Differences that were kept; *left* is the number of further ones."""

    left = 0


class _Place(NamedTuple):
    """Position of a value: a field name or an index, within the position *above*."""

    step: str | int
    above: "_Place | None"


def differences(here: Any, there: Any) -> Differences:  # Any: JSON
    """Return the differences of *here* from *there*.

    Missing fields come first, then added ones, other types and other values.
    """
    kept: dict[What, list[Difference]] = {what: [] for what in ORDER}
    left = 0
    for place, what, one, other in _found(here, there):
        if len(kept[what]) < KEPT_MAX:
            kept[what].append(Difference(_path(place), what, one, other))
        else:
            left += 1
    found = Differences(chain.from_iterable(kept.values()))
    found.left = left
    return found


def cut_path(path: str) -> str:
    """Cut *path* to the length that a difference keeps."""
    return path if len(path) <= PATH_MAX else f"{path[:PATH_MAX]}..."


def _found(here: Any, there: Any) -> Iterator[tuple[_Place | None, What, Any, Any]]:
    levels: list[Iterator[tuple[_Place | None, Any, Any]]] = [iter([(None, here, there)])]
    while levels:
        following = next(levels[-1], None)
        if following is None:
            levels.pop()
            continue
        place, one, other = following
        if one is _MISSING:
            yield place, "missing", None, other
        elif other is _MISSING:
            yield place, "added", one, None
        elif type_of(one) != type_of(other):
            yield place, "type", one, other
        elif isinstance(one, dict):
            levels.append(_fields(place, one, other))
        elif isinstance(one, list):
            levels.append(_elements(place, one, other))
        elif one != other:
            yield place, "value", one, other


def _fields(
    above: _Place | None, one: dict[str, Any], other: dict[str, Any]
) -> Iterator[tuple[_Place, Any, Any]]:
    for name in chain(other, (name for name in one if name not in other)):
        yield _Place(name, above), one.get(name, _MISSING), other.get(name, _MISSING)


def _elements(
    above: _Place | None, one: list[Any], other: list[Any]
) -> Iterator[tuple[_Place, Any, Any]]:
    for number, (mine, its) in enumerate(zip_longest(one, other, fillvalue=_MISSING)):
        yield _Place(number, above), mine, its


def type_of(value: Any) -> str:
    """Return the JSON name of the type of *value*."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _path(place: _Place | None) -> str:
    """Return the JSON path of *place*, cut if it is long."""
    steps = []
    while place is not None:
        steps.append(place.step)
        place = place.above
    path = "$"
    while steps and len(path) <= PATH_MAX:
        step = steps.pop()
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if step.isidentifier() else f"[{step!r}]"
    return cut_path(path)
