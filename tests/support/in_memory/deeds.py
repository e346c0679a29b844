"""Two handlers that do what an event's program says, see `scenario`."""

import asyncio
from collections.abc import Callable, Mapping

from famulus.errors import TransientError
from famulus.serialization.records import Delivery, ProducerRecord
from famulus.state.partition_state import PartitionState
from famulus.state.tables import Table
from famulus.state.unit_of_work import current_unit
from tests.support.in_memory.scenario import Deed


class Deeds:
    """The handlers of one worker and their tables.

    *step* is told each pause, *wrong* takes what must never be seen.
    """

    def __init__(
        self,
        held: Mapping[int, PartitionState],
        step: Callable[[str], None],
        wrong: list[str],
        *,
        remembers: bool,
    ) -> None:
        self.sums = Table("sums", str, int, default=int, held=held)
        self.trail = Table("trail", str, list[str], default=list, held=held)
        self._step = step
        self._wrong = wrong
        self._remembers = remembers

    async def pause(self, event: Deed) -> None:
        """Let others go on."""
        for _ in range(1 + sum(event.name.encode()) % 3):
            await asyncio.sleep(0)
            self._step("pause")

    async def first(self, event: Deed, delivery: Delivery) -> None:
        """Do what the event says."""
        for word in event.program.split():
            what, *rest = word.split(":")
            if what == "publish":
                self.say(event)
            elif what == "pause" or not self._remembers:
                await self.pause(event)
            else:
                await self.change(event, what, *rest)
        if delivery.attempt <= event.fails:
            raise TransientError("not yet")

    async def change(self, event: Deed, what: str, row: str, other: str, amount: str = "") -> None:
        """Change rows, or compare two."""
        found = self.sums[row]
        if what != "add":
            await self.pause(event)
        if what == "check":
            if found + self.sums[other] != 0:
                self._wrong.append(f"{event.name} saw half of a move")
        elif what == "move":
            self.sums[row] = found - int(amount)
            await self.pause(event)
            self.sums[other] += int(amount)
        else:
            self.sums[row] = found + int(other)

    async def second(self, event: Deed, delivery: Delivery) -> None:
        """Note the event in its lane's trail."""
        if self._remembers:
            trail = self.trail[event.lane]
            await self.pause(event)
            self.trail[event.lane] = [*trail, event.name]
        if delivery.attempt <= event.fails_late:
            raise TransientError("not yet")

    def say(self, event: Deed) -> None:
        """Publish the event's name."""
        unit = current_unit()
        assert unit is not None
        unit.publish(ProducerRecord("out", None, event.name.encode()))
