"""How names are compared: `SaslSsl`, `SASL_SSL` and `sasl.ssl` are one."""

import difflib
import re
from collections.abc import Iterable


def plain(name: str) -> str:
    """*name* without case, underscores, dots and dashes."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of *known* that *name* most likely stands for, None when none is like it.

    Spelled as `plain` does.
    """
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
