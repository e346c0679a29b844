"""Who is in the group: workers that come and go, a client of another kind, one that has had nothing to do for long."""

from collections.abc import Iterator
from contextlib import contextmanager

from famulus.dev.node import free_port
from torture.faults import Fault, Hit, always
from torture.slots import Slot
from torture.stage import SESSION_MS, Stage
from torture.stranger import Stranger

MAX_POLL_S = 10.0
TAKES_OVER_S = 3 * SESSION_MS / 1000  # the session of those that were killed, and a rebalance
SETTINGS = {"KAFKA__CONSUMERCONFIG__MAXPOLLINTERVALMS": str(round(MAX_POLL_S * 1000))}


def _guest(kind: str, *, is_killed: bool) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        """Have a further worker come, and leave again."""
        slot = Slot(stage.folder / f"guest-{stage.marks.restarts % 3}", free_port())
        stage.slots.append(slot)
        try:
            stage.start(slot)
            yield lambda: bool(stage.owned(slot))
        finally:
            if is_killed:
                stage.kill(slot)
            else:
                slot.is_down = True
                slot.running.stop()
            stage.slots.remove(slot)
            stage.marks.restarts += 1

    return Fault(kind, hurting, 0.5)


@contextmanager
def _hasty(stage: Stage) -> Iterator[Hit]:
    """Have a worker leave while it is still on its way in."""
    slot = stage.slots[stage.marks.faults.total() % len(stage.slots)]
    slot.is_down = True
    slot.running.stop()
    for _ in range(2):
        stage.restart(slot)
        stage.let_pass(stage.chance.uniform(1.0, 3.0))
        slot.is_down = True
        slot.running.stop()
    stage.restart(slot)
    yield always


@contextmanager
def _stranger_comes(stage: Stage) -> Iterator[Hit]:
    """Have a client of another kind try to join a group that is at work."""
    with Stranger(stage.kafka, stage.topic):
        yield always


@contextmanager
def _stranger_was_there(stage: Stage) -> Iterator[Hit]:
    """Have a client of another kind be the group before any worker is: they refuse, and say who it is."""
    stage.shut()
    with Stranger(stage.kafka, stage.topic) as stranger:
        stranger.wait_joined()
        for slot in stage.slots:
            stage.start(slot)
        stage.all_refuse("group")
    stage.open()
    yield always


@contextmanager
def _stand_by(stage: Stage) -> Iterator[Hit]:
    """Kill all but the worker that had nothing to do for longer than MaxPollIntervalMs: it takes over."""
    stage.wait_owned()
    idle = next((slot for slot in stage.slots if not stage.owned(slot)), None)
    if idle is None:
        yield lambda: False
        return
    stage.let_pass(MAX_POLL_S + 3)
    gone = [slot for slot in stage.slots if slot is not idle]
    for slot in gone:
        stage.kill(slot)
    if not stage.wait_for(lambda: len(stage.owned(idle)) == stage.partitions, TAKES_OVER_S):
        stage.marks.unexpected.append(
            f"{stage.now}: the stand-by did not take over within {TAKES_OVER_S:g} s"
        )
    yield always
    for slot in gone:
        stage.restart(slot)


STORM = (
    _guest("worker joins and leaves", is_killed=False),
    _guest("worker joins and is killed", is_killed=True),
    Fault("worker leaves while it joins", _hasty, 0.5),
    Fault("client of another kind joins", _stranger_comes, 1.0),
    Fault("client of another kind was the group", _stranger_was_there, 0.0, at_most=2),
)
STAND_BY = (
    Fault(
        "owner killed after the stand-by was idle beyond MaxPollIntervalMs",
        _stand_by,
        1.0,
        at_most=4,
    ),
)
