"""Kills: SIGKILL at random moments and at chosen steps of the group commits, with the disk kept, lost or another's."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from torture.slots import Blow, State
from torture.stage import Stage

STEPS = ("sending", "sent", "acknowledged", "written", "published")  # of a group commit
STATES: tuple[State, ...] = ("kept", "deleted", "moved")
STEP_EVERY = 3  # the how manieth kill is dealt at a step
# Of the other kills do not wait for progress: they hit a start, a replay or a rebalance.
EARLY = 0.25
STEP_S = 45.0


@dataclass(frozen=True, slots=True)
class Kill:
    """A worker dies: at its *blow*, else *delay_s* after the group's next progress, or after the kill before."""

    worker: int
    state: State
    blow: Blow | None = None
    delay_s: float = 0.0
    is_early: bool = False


def plan(kills: int, workers: int, chance: random.Random, steps: Iterator[str]) -> list[Kill]:
    """Every third kill is dealt by the worker that was started by the kill before it, at the next of *steps*."""
    made: list[Kill] = []
    for number in range(kills):
        # So that each step meets each state.
        state = STATES[(number + number // len(STATES)) % len(STATES)]
        if number % STEP_EVERY == STEP_EVERY - 1:
            made.append(
                Kill(made[-1].worker, state, Blow(next(steps), after=chance.randint(1, 12)))
            )
        else:
            is_early = chance.random() < EARLY
            delay_s = chance.uniform(0.2, 6.0) if is_early else chance.uniform(0.0, 1.5)
            made.append(Kill(chance.randrange(workers), state, delay_s=delay_s, is_early=is_early))
    return made


def strike(stage: Stage, kills: list[Kill]) -> None:
    """Deal the kills, each with a slice of the payments on its way; the last slice is for after them."""
    for number, (kill, following) in enumerate(itertools.zip_longest(kills, kills[1:]), 1):
        stage.allow(number, len(kills) + 1)
        slot = stage.slots[kill.worker]
        if kill.blow is not None:
            # Asked at once.
            if (
                stage.wait_for(lambda: slot.fell_by_blow or stage.feed.is_settled, STEP_S)
                and slot.fell_by_blow
            ):
                stage.marks.steps[kill.blow.step] += 1
        else:
            if not kill.is_early:
                stage.wait_progress()
            stage.let_pass(kill.delay_s)
        stage.kill(slot)
        where = "at random" if kill.blow is None else "at a step of a group commit"
        stage.marks.faults[f"worker killed {where}, disk {kill.state}"] += 1
        stage.restart(slot, kill.state, following.blow if following is not None else None)
