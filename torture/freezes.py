"""Freezes: a worker stopped with a batch in its hands for longer than its session, and a broker that is away."""

import signal
from collections.abc import Callable

from torture.slots import Blow, Slot, is_frozen
from torture.stage import PARTITIONS, SESSION_MS, Stage

STEPS = ("sending", "sent")
BLOW_S = 45.0
AFTER = 5  # so many groups, since the first ones are small
TAKEN_S = 60.0
ROUNDS = 4


def zombies(stage: Stage, rounds: int = ROUNDS) -> None:
    """A worker freezes with a group in its hands; the other has its partitions when it goes on.

    In every second pair of rounds that other one is killed right after, and its disk is lost: the log alone decides.
    """
    for number in range(rounds):
        stage.allow(2 * number + 1, 2 * rounds + 1)
        frozen, other = stage.slots[number % 2], stage.slots[1 - number % 2]
        step = STEPS[number % len(STEPS)]
        frozen.running.stop()
        stage.restart(frozen, blow=Blow(step, AFTER, signal.SIGSTOP))
        stage.marks.steps[step] += stage.wait_for(lambda: frozen.is_frozen, BLOW_S)  # noqa: B023  # asked at once
        frozen.running.signal(signal.SIGSTOP)  # does nothing when it is frozen
        stage.let_pass(SESSION_MS / 1000 + 2)
        stage.wait_for(lambda: len(stage.owned(other)) == PARTITIONS, TAKEN_S)  # noqa: B023
        stage.wait_progress()
        stage.allow(2 * number + 2, 2 * rounds + 1)
        frozen.running.signal(signal.SIGCONT)
        if number // 2 % 2:
            stage.let_pass(0.7)
            stage.kill(other)
            stage.restart(other, "deleted")
        stage.wait_progress()


def outages(stage: Stage, pause_s: float, rounds: int = ROUNDS) -> None:
    """The broker is killed, or stopped for *pause_s*, in the middle of a group commit."""
    [node] = stage.broker.nodes
    for number in range(rounds):
        stage.allow(number + 1, rounds + 1)  # something is left for the time after the last round
        slot = stage.slots[number % len(stage.slots)]
        slot.running.stop()
        step = STEPS[number // 2 % len(STEPS)]
        if number % 2:
            _strike(stage, slot, Blow(step, AFTER, signal.SIGSTOP, node.pid), lambda: is_frozen(node.pid))
            node.pause()  # does nothing when it is stopped
            try:
                stage.let_pass(pause_s)
            finally:
                node.resume()
        else:
            _strike(stage, slot, Blow(step, AFTER, signal.SIGKILL, node.pid), node.has_ended)
            if not node.has_ended():
                node.kill()
            stage.let_pass(3)
            stage.broker.restart(node)
        stage.wait_progress(120)


def _strike(stage: Stage, slot: Slot, blow: Blow, has_hit: Callable[[], bool]) -> None:
    """Have a worker deal *blow* to the broker."""
    stage.restart(slot, blow=blow)
    stage.marks.steps[blow.step] += stage.wait_for(has_hit, BLOW_S)
