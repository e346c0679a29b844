"""Clocks that are wrong: a worker's jumps while it runs, and back again, or it starts with a wrong one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.errors import TortureError
from torture.faults import Fault, Hit, always, next_slot
from torture.slots import Slot
from torture.stage import Stage

# The second one takes a lock for each look at the clock.
NAMES = "libfaketime.so.1", "libfaketimeMT.so.1"
SYSTEM = Path("/usr/lib")


def _library() -> Path:
    """The library of Debian's package `faketime`, or that of Python's package `libfaketime`."""
    folders = [
        *SYSTEM.glob("*/faketime"),
        SYSTEM / "faketime",
        *(Path(at) / "libfaketime" for at in sys.path),
    ]
    for folder in folders:
        for name in NAMES:
            if found := sorted(folder.rglob(name)):
                return found[0]
    raise TortureError(
        "the scenario `clock` needs libfaketime: `apt-get install faketime`, or `pip install "
        "libfaketime`"
    )


@contextmanager
def prepared(stage: Stage) -> Iterator[None]:
    """Have workers take their time from a clock that can be set; what measures time stays right."""
    for slot in stage.slots:
        _set(slot, 0)
    stage.settings |= {
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": "{home}.clock",
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    # More than an hour ahead, which brokers do not take.
    stage.excuse = "the clock of this machine is wrong"
    yield


def _set(slot: Slot, ahead_s: int) -> None:
    clock = slot.home.with_suffix(".clock")
    clock.with_suffix(".new").write_text(f"{ahead_s:+d}", "ascii")
    clock.with_suffix(".new").rename(clock)


def _jump(ahead: str, ahead_s: int) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        slot = next_slot(stage)
        _set(slot, ahead_s)
        try:
            yield always
        finally:
            _set(slot, 0)

    return Fault(f"clock {ahead} while a worker runs", hurting, 2.0)


def _start(ahead: str, ahead_s: int) -> Fault:
    @contextmanager
    def hurting(stage: Stage) -> Iterator[Hit]:
        slot = next_slot(stage)
        stage.kill(slot)
        _set(slot, ahead_s)
        try:
            stage.restart(slot)
            yield always
        finally:
            _set(slot, 0)

    return Fault(f"clock {ahead} when a worker starts after a kill", hurting, 4.0)


HOUR, DAY = 3_600, 86_400
JUMPS = {
    "half an hour ahead": HOUR // 2,
    "half an hour behind": -HOUR // 2,
    "an hour behind": -HOUR,
    "two hours ahead": 2 * HOUR,
    "a day behind": -DAY,
    "a day ahead": DAY,
    "eight days ahead": 8 * DAY,
}
FAULTS = (*(_jump(*jump) for jump in JUMPS.items()), *(_start(*jump) for jump in JUMPS.items()))
