"""Comparison of names: `SaslSsl`, `SASL_SSL` and `sasl.ssl` are the same."""

import difflib
import re
from collections.abc import Iterable


def plain(name: str) -> str:
    """*name* without case, underscores, dots and dashes."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the one of *known* that is most like *name*, None if none is.

    Both are spelled as `plain` does.
    """
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
