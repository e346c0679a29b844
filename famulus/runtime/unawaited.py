"""Coroutines that a handler creates and never awaits, such as `bus.publish(...)`.

Such a coroutine has no effect, and Python only warns when it is deleted. Here the attempt that
created it fails, so that the event does not count as handled without its effects.
"""

import warnings
from typing import Any

from famulus.state.unit_of_work import current_unit

HOOK = "_warn_unawaited_coroutine"  # of `warnings`; the interpreter calls it by this name


def watch_unawaited() -> None:
    """Note coroutines that are never awaited on the unit of work, and warn as before."""
    modules: Any = warnings  # Any: there is no public way to it
    warn = getattr(modules, HOOK, None)
    if warn is None:  # an interpreter that warns in another way
        return

    def noted(coroutine: Any) -> None:  # Any: a coroutine of any kind
        unit = current_unit()
        if unit is not None and not unit.is_ended:
            unit.unawaited = coroutine.__qualname__
        warn(coroutine)

    setattr(modules, HOOK, noted)
