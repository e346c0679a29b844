"""What is done to workers and to all that they stand on: one shape for every fault, and how they are dealt in turn."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torture.slots import Slot
from torture.stage import Stage

Hit = Callable[[], bool]
HIT_S = 120.0  # also of one that hits when a worker has started
RECOVER_S = 180.0


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    *hurting* does it, and takes it back at its end; it gives a function that says whether it hit.

    It lasts for *lasts_s* from when it hit. What a fault asks of the workers meanwhile it notes on
    the stage.
    """

    kind: str
    hurting: Callable[[Stage], AbstractContextManager[Hit]]
    lasts_s: float = 1.0
    at_most: int = 1_000_000  # so often in a leg: it takes long


def always() -> bool:
    """Say that a fault hit: it does as soon as it is there."""
    return True


def next_slot(stage: Stage) -> Slot:
    """The worker whose turn it is: each gets its share of the faults."""
    return stage.slots[stage.marks.faults.total() % len(stage.slots)]


def plan(faults: Sequence[Fault], number: int, chance: random.Random) -> list[Fault]:
    """So many faults, or one of each kind when those are more: all kinds come in turn, each time in another order."""
    planned: list[Fault] = []
    round_number = 0
    while len(planned) < max(number, len(faults)):
        left = [fault for fault in faults if fault.at_most > round_number]
        if not left:
            break
        planned += chance.sample(left, len(left))
        round_number += 1
    return planned[: max(number, len(faults))]


def strike(stage: Stage, faults: Sequence[Fault]) -> None:
    """Deal the faults, each with payments before it and payments meanwhile; the last ones come after all of them."""
    parts = 2 * len(faults) + 1
    stage.wait_owned()
    for number, fault in enumerate(faults):
        stage.allow(2 * number + 1, parts)
        stage.begin(fault.kind)
        with fault.hurting(stage) as has_hit:
            stage.allow(2 * number + 2, parts)
            if stage.wait_for(has_hit, HIT_S):
                stage.marks.faults[fault.kind] += 1
                stage.let_pass(fault.lasts_s)
        if not stage.wait_progress(RECOVER_S):
            stage.marks.unexpected.append(
                f"{fault.kind}: nothing was settled for {RECOVER_S:g} s after it"
            )
    stage.begin("")
