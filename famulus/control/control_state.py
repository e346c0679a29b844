"""Current operator overrides of the group: pauses, pending seeks and concurrency.

All of them are records of one topic. The key of a record tells its kind, see `pauses`, `seeks`,
`concurrency` and `hold_ups`. Hold-ups are not written by operators, but by workers for each other.
Pure.
"""

from famulus.control import concurrency as concurrency_overrides
from famulus.control import hold_ups as holdups
from famulus.control import seeks
from famulus.control.pauses import Pauses, said

CLOCK = "clock"  # key of the records that workers write to learn the broker's time


class ControlState:
    """Current overrides, as of the last record of the admin topic."""

    def __init__(self) -> None:
        self.pauses = Pauses()
        self.seeks = seeks.Seeks()
        self.concurrency_overrides = concurrency_overrides.ConcurrencyOverrides()
        self.holdups = holdups.HoldUps()

    def words(self) -> list[str]:
        """Return descriptions of the concurrency overrides and pending seeks."""
        return [
            *(
                concurrency_overrides.said(*of)
                for of in sorted(self.concurrency_overrides.of.items())
            ),
            *self.seeks.words(),
        ]

    def take(self, key: bytes | None, value: bytes | None) -> str:
        """Apply a record and return a description of it, empty for a record of the clock.

        Raises ValueError when it is not a valid record of the admin topic.
        """
        text = (key or b"").decode()
        if text == CLOCK:
            return ""
        if text.startswith(concurrency_overrides.PREFIX):
            return self.concurrency_overrides.take(text, value)
        if text.startswith(seeks.PREFIX):
            return self.seeks.take(text, value)
        if text.startswith(holdups.PREFIX):
            return self.holdups.take(text, value)
        target = self.pauses.take(key, value)
        why = self.pauses.of.get(target)
        return said(target, why) if why else f"{target} was resumed"
