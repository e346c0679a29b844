"""Freezes: a worker stopped with a batch in its hands for longer than its session, and a broker that is away."""

import signal
from collections.abc import Callable

from torture.slots import Blow, Slot, is_frozen
from torture.stage import SESSION_MS, Stage

STEPS = ("sending", "sent")
AFTER = 5  # so many groups, since the first ones are small
BLOW_S = 30.0
OWNED_S = 60.0
ROUNDS = 4


def zombies(stage: Stage, rounds: int = ROUNDS) -> None:
    """A worker freezes with a group in its hands; the other has its partitions when it goes on.

    In the second half of the rounds that other one is killed right after, and its disk is lost: the
    log alone decides.
    """
    for number in range(rounds):
        frozen, other = stage.slots[number % 2], stage.slots[1 - number % 2]
        step = STEPS[number % len(STEPS)]
        _arm(stage, frozen, Blow(step, AFTER, signal.SIGSTOP))
        stage.allow(2 * number + 1, 2 * rounds + 1)
        if not _falls(stage, frozen, step, lambda: frozen.is_frozen):  # asked at once
            frozen.running.signal(signal.SIGSTOP)
        stage.marks.faults["worker frozen for longer than a session"] += 1
        stage.let_pass(SESSION_MS / 1000 + 2)
        stage.wait_for(lambda: len(stage.owned(other)) == stage.partitions, OWNED_S)
        stage.wait_progress()
        stage.allow(2 * number + 2, 2 * rounds + 1)
        frozen.running.signal(signal.SIGCONT)
        if number >= rounds / 2:
            stage.let_pass(0.7)
            stage.kill(other)
            stage.restart(other, "deleted")
            stage.marks.faults["worker killed when the one that it replaced wakes up"] += 1
        stage.wait_progress()


def outages(stage: Stage, pause_s: float, rounds: int = ROUNDS) -> None:
    """The broker is killed, or stopped for *pause_s*, in the middle of a group commit, one after the other."""
    node = stage.cluster.node
    for number in range(rounds):
        slot = stage.slots[number % len(stage.slots)]
        is_killed = number % 2 == 0
        step = STEPS[number // 2 % len(STEPS)]
        _arm(
            stage,
            slot,
            Blow(step, AFTER, signal.SIGKILL if is_killed else signal.SIGSTOP, node.pid),
        )
        stage.allow(number + 1, rounds + 1)  # something is left for the time after the last round
        if is_killed:
            if not _falls(stage, slot, step, node.has_ended):
                node.kill()
            stage.marks.faults["broker killed in the middle of a group commit"] += 1
            stage.let_pass(3)
            stage.cluster.broker.restart(node)
        else:
            try:
                if not _falls(stage, slot, step, lambda: is_frozen(node.pid)):
                    node.pause()
                stage.marks.faults["broker stopped in the middle of a group commit"] += 1
                stage.let_pass(pause_s)
            finally:
                node.resume()
        stage.wait_progress(120)


def _arm(stage: Stage, slot: Slot, blow: Blow | None) -> None:
    """Stop a worker and start it with *blow*; it has partitions, and as a rule nothing to do, when this returns."""
    slot.running.stop()
    stage.restart(slot, blow=blow)
    stage.wait_for(lambda: bool(stage.owned(slot)), OWNED_S)


def _falls(stage: Stage, slot: Slot, step: str, has_hit: Callable[[], bool]) -> bool:
    """Whether the blow of a worker hits.

    One that does not must not fall later: the worker is started without it.
    """
    if stage.wait_for(has_hit, BLOW_S):
        stage.marks.steps[step] += 1
        return True
    _arm(stage, slot, None)
    return False
