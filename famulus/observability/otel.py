"""Optional import of OpenTelemetry, which need not be installed.

A worker without it pays nothing for it.
"""

import importlib
from typing import Any, cast

from famulus.errors import ConfigError


# Any: a module.
def otel(module: str, setting: str, mode: str, provider: str, *, has_provider: bool) -> Any:
    """Import and return *module*, which uses OpenTelemetry, or None if *mode* turns it off.

    *mode* is the value of *setting*. `off` always turns it off, `auto` if no *provider* is set.
    Raises ConfigError when another mode finds no provider, or when the package is missing.
    """
    if mode == "off" or (mode == "auto" and not has_provider):
        return None
    try:
        found = cast(Any, importlib.import_module(module))
    except ImportError:
        raise ConfigError(
            f"{setting} is {mode}, and opentelemetry-api is missing: install the extra `otel`, "
            "or set it to off"
        ) from None
    if not has_provider:
        raise ConfigError(
            f"{setting} is {mode}, and no {provider} provider is set: set one in "
            "agents/__init__.py, or start the "
            "worker with opentelemetry-instrument"
        )
    return found
