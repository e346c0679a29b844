"""Coroutines that a handler makes and never awaits, such as `bus.publish(...)`.

Python only warns when such a coroutine is deleted. Here the attempt that made it fails, so that the
event does not count as handled without its effects.
"""

import warnings
from typing import Any

from famulus.state.unit_of_work import current_unit

HOOK = "_warn_unawaited_coroutine"  # of `warnings`; the interpreter calls it by this name


def watch_unawaited() -> None:
    """Note such coroutines on the current attempt, and warn as before."""
    modules: Any = warnings  # Any: there is no public way to it
    warn = getattr(modules, HOOK, None)
    if warn is None:  # an interpreter that does it another way
        return

    def noted(coroutine: Any) -> None:  # Any: a coroutine of any kind
        unit = current_unit()
        if unit is not None and not unit.is_ended:
            unit.unawaited = coroutine.__qualname__
        warn(coroutine)

    setattr(modules, HOOK, noted)
