"""Time in tests: it goes on only when nobody has anything to do, and then at once to what comes next."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

BEGIN_S = 1_000.0  # by the monotonic clock
EPOCH_S = 1_700_000_000.0  # what it is by the clock on the wall then


class Clock:
    """The clocks of the module `time`, and of the running event loop, which never waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = BEGIN_S
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select: Callable[[float], Any] = selector.select

        def jump(timeout: float | None = None) -> Any:
            self.now += timeout or 0
            found = select(0)
            assert found or timeout is not None, "everybody waits, and nothing will ever come"
            return found

        monkeypatch.setattr(selector, "select", jump)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: EPOCH_S + self.now - BEGIN_S)
        monkeypatch.setattr(
            time, "time_ns", lambda: round((EPOCH_S + self.now - BEGIN_S) * 1_000_000) * 1_000
        )

    @property
    def passed_s(self) -> float:
        """Seconds since the test began."""
        return self.now - BEGIN_S
