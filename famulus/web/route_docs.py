"""What a view says of itself beside its docstrings, for whoever describes it: see `openapi`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = Mapping[str, Any]  # Any: JSON Schema

JSON = "application/json"
HTML = "text/html"
ROWS: Schema = {"type": "array", "items": {"type": "object"}}
OBJECT: Schema = {"type": "object"}


def texts(*names: str) -> dict[str, Schema]:
    """Fields of a query or a form that are texts."""
    return {name: {"type": "string"} for name in names}


@dataclass(frozen=True, slots=True)
class RouteDocs:
    """What a view *gives* (media types) and of what shape that is where it is JSON; what it takes in the *query*.

    *form* has the fields of a form that is sent to it. JSON that is sent to a view is the class
    `Asked` of its module.
    """

    gives: tuple[str, ...] = ("*/*",)
    shape: Schema = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    form: Mapping[str, Schema] = field(default_factory=dict)
