"""OpenTelemetry where it is wanted: it need not be installed, and a worker without it pays nothing for it."""

import importlib
from typing import Any, cast

from famulus.errors import ConfigError


# Any: as is OpenTelemetry.
def otel(module: str, setting: str, mode: str, provider: str, *, has_provider: bool) -> Any:
    """The module of ours that imports OpenTelemetry, None when *mode*, the value of *setting*, wants none of it.

    `off` never does, `auto` only if somebody has set a *provider* by now. Raises ConfigError when
    another mode has none, or when the package is missing.
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
