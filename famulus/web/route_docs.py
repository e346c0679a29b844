"""Description of a view beside its docstrings, see `openapi`."""

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
    """Media types that a view *gives*, *shape* of its JSON, and *query* that it takes.

    *form* has the fields of a form that is posted to it. JSON that is posted has the shape of the
    class `Asked` in the view's module.
    """

    gives: tuple[str, ...] = ("*/*",)
    shape: Schema = field(default_factory=dict)
    query: Mapping[str, Schema] = field(default_factory=dict)
    form: Mapping[str, Schema] = field(default_factory=dict)
