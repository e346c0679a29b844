"""How names are compared: `SaslSsl`, `SASL_SSL` and `sasl.ssl` are one."""

import re


def plain(name: str) -> str:
    """*name* without case, underscores, dots and dashes."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
