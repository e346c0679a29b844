"""All that the group's operators have told it by now: what is paused, where reading is to go on, how much is in hand.

One topic says it all; a record's key says of which kind it is, see `pauses`, `seeks`, `widths` and
`holdups`, which workers tell each other. Pure.
"""

from famulus.control import concurrency as concurrency_overrides
from famulus.control import hold_ups as holdups
from famulus.control import seeks
from famulus.control.pauses import Pauses, said

CLOCK = "clock"  # the key of what workers write to be told the broker's time


class ControlState:
    """What is told, after every record of the admin topic that was taken."""

    def __init__(self) -> None:
        self.pauses = Pauses()
        self.seeks = seeks.Seeks()
        self.concurrency_overrides = concurrency_overrides.ConcurrencyOverrides()
        self.holdups = holdups.HoldUps()

    def words(self) -> list[str]:
        """What is told beside pauses, in words."""
        return [
            *(
                concurrency_overrides.said(*of)
                for of in sorted(self.concurrency_overrides.of.items())
            ),
            *self.seeks.words(),
        ]

    def take(self, key: bytes | None, value: bytes | None) -> str:
        """Note a record; what it says, in words. Raises ValueError when it is none of ours."""
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
