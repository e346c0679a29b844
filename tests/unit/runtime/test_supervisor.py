"""Tests of the supervisor of several workers: restarts, the end of all, and the exit code."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from famulus.runtime.children import StopSignals
from famulus.runtime.one_log import OneLog
from famulus.runtime.supervisor import Fate, Place, Supervisor, fate_of, wait_before, worst

LIMIT_S = 30.0
ENDLESS = "import time\nprint('runs', flush=True)\ntime.sleep(60)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('runs', flush=True)\ntime.sleep(60)"
ONCE_KILLED = """
import os, pathlib, sys, time
mark = pathlib.Path(sys.argv[1])
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), 9)
print("runs", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("code", "fate"),
    [
        (0, Fate.DONE),
        (75, Fate.DONE),
        (1, Fate.AGAIN),
        (69, Fate.AGAIN),
        (70, Fate.AGAIN),
        (74, Fate.AGAIN),
        (-9, Fate.AGAIN),
        (-15, Fate.AGAIN),
        (2, Fate.ALL_END),
        (64, Fate.ALL_END),
        (77, Fate.ALL_END),
        (78, Fate.ALL_END),
    ],
)
def test_what_becomes_of_a_worker_that_ends(code: int, fate: Fate) -> None:
    """A worker was asked to stop, is started again, or ends all."""
    assert fate_of(code) is fate


def test_waits_grow_up_to_a_limit() -> None:
    assert [wait_before(failures) for failures in (1, 2, 3, 5, 6, 7, 10_000)] == [
        1,
        2,
        4,
        16,
        30,
        30,
        30,
    ]


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([0, 0], 0),
        ([0, 75], 75),
        ([75, 70], 70),
        ([70, 1], 70),
        ([1, 75], 1),
        ([70, 78], 78),
        ([0, -9], 75),
        ([], 0),
    ],
)
def test_the_exit_code_says_most(codes: list[int], code: int) -> None:
    """A wrong setting comes before a crash, and a crash before unfinished work."""
    assert worst(codes) == code


class Trial:
    """A supervisor of small scripts, with its log in a file."""

    def __init__(self, folder: Path, *scripts: str, stop_timeout_s: float = 10.0) -> None:
        self.file = folder / "log"
        self.places = [
            Place(str(number), [sys.executable, "-c", script, str(folder / "mark")], "here")
            for number, script in enumerate(scripts, 1)
        ]
        self.stop_timeout_s = stop_timeout_s
        self.stop: Any = None

    @property
    def log(self) -> str:
        """Return the log so far."""
        return self.file.read_text()

    async def run(self) -> int:
        """Run the supervisor and return its exit code."""
        with self.file.open("wb") as file, StopSignals() as self.stop:
            async with asyncio.timeout(LIMIT_S), OneLog(file.fileno()) as log:
                return await Supervisor(self.places, self.stop, log, self.stop_timeout_s).run()

    async def says(self, text: str, times: int = 1) -> None:
        """Wait until the log has *text* at least *times* times."""
        async with asyncio.timeout(LIMIT_S):
            while not self.file.exists() or self.log.count(text) < times:
                await asyncio.sleep(0.02)


async def test_a_killed_worker_starts_again_and_one_signal_ends_all(tmp_path: Path) -> None:
    """SIGTERM goes to all at once; a worker without a handler for it yet has no work to lose."""
    trial = Trial(tmp_path, ONCE_KILLED, ENDLESS)
    running = asyncio.create_task(trial.run())
    await trial.says("1 | was killed by SIGKILL; it starts again in 1 s")
    await trial.says("| runs", 2)
    os.kill(os.getpid(), 15)
    assert await running == 0
    assert trial.log.count("ended with exit code 0") == 2


async def test_a_second_signal_ends_those_who_do_not_listen(tmp_path: Path) -> None:
    """The exit code means that events in flight are read again."""
    trial = Trial(tmp_path, DEAF, DEAF, stop_timeout_s=1_000.0)
    running = asyncio.create_task(trial.run())
    await trial.says("| runs", 2)
    os.kill(os.getpid(), 2)
    await trial.says("a second signal ends them at once")
    os.kill(os.getpid(), 2)
    assert await running == 75


async def test_who_does_not_listen_is_killed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor waits for the stop timeout of a worker and a margin."""
    monkeypatch.setattr("famulus.runtime.supervisor.STOP_ROOM_S", 0.1)
    trial = Trial(tmp_path, DEAF, stop_timeout_s=0.1)
    running = asyncio.create_task(trial.run())
    await trial.says("| runs")
    os.kill(os.getpid(), 1)  # SIGHUP: the terminal was closed
    assert await running == 75


async def test_a_wrong_setting_ends_all_with_its_code(tmp_path: Path) -> None:
    """The other workers are asked to stop."""
    trial = Trial(tmp_path, ENDLESS, "import sys, time\ntime.sleep(0.5)\nsys.exit(78)")
    assert await trial.run() == 78
    assert "2 | ended with exit code 78; all workers end" in trial.log


async def test_workers_that_were_asked_to_stop_stay_down(tmp_path: Path) -> None:
    """One worker was drained over the web, the other did not finish in time."""
    trial = Trial(tmp_path, "print('a')", "import sys\nsys.exit(75)")
    assert await trial.run() == 75


async def test_what_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """The command can be stopped in between."""
    trial = Trial(tmp_path, "")
    trial.places = [Place("1", [str(tmp_path / "nothing")], "here")]
    running = asyncio.create_task(trial.run())
    await trial.says("no process can be started: No such file or directory")
    os.kill(os.getpid(), 15)
    assert await running == 71


async def test_the_log_has_whole_lines_with_names_and_nothing_that_a_terminal_obeys(
    tmp_path: Path,
) -> None:
    """The output has a last line without an end, invalid UTF-8, and a line of a megabyte."""
    script = (
        "import os\nos.write(1, b'first\\nsec')\nos.write(2, b'ond\\n\\x1b[31m\\xff\\n')\n"
        "os.write(1, b'x' * 1_200_000)\nos.write(1, b'\\nlast')"
    )
    trial = Trial(tmp_path, script)
    assert await trial.run() == 0
    lines = trial.log.splitlines()
    assert all(line.startswith("1 | ") for line in lines)
    assert lines[1:4] == ["1 | first", "1 | second", "1 | \\x1b[31m\\xff"]
    assert sum(line.count("x") for line in lines[4:-2]) == 1_200_000
    assert lines[-2] == "1 | last"


async def test_a_reader_who_stands_still_holds_up_no_stop(tmp_path: Path) -> None:
    """The pipe of the log is full: workers wait, but the command still ends."""
    reading, writing = os.pipe()
    shouting = "print('x' * 100, flush=True)\nwhile True: print('x' * 100)"
    try:
        with StopSignals() as stop:
            async with asyncio.timeout(LIMIT_S), OneLog(writing) as log:
                running = asyncio.create_task(
                    Supervisor(
                        [Place("1", [sys.executable, "-c", shouting], "")], stop, log, 10.0
                    ).run()
                )
                await asyncio.to_thread(os.read, reading, 1)
                await asyncio.sleep(1)
                os.kill(os.getpid(), 15)
                assert await running == 0
    finally:
        os.close(reading)
        os.close(writing)
