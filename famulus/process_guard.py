"""Ends what its parent started, however the parent ends: it reads a pipe whose other end only the parent holds.

Run as a script, in a session of its own so that Ctrl-C does not reach it. Lines `+PID` and `-PID` say which processes
it guards, `=SECONDS` how long they may take to end; the argument, if any, is a folder to remove. At the end of the pipe
the parent is gone: SIGTERM, those seconds (5 unless told), SIGKILL.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

PATIENCE_S = 5.0


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def end(pids: set[int], patience_s: float) -> None:
    """End the processes, those that have not ended by themselves after *patience_s* the hard way."""
    for number, wait_s in (
        (signal.SIGCONT, 0.0),
        (signal.SIGTERM, patience_s),
        (signal.SIGKILL, PATIENCE_S),
    ):
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        deadline = time.monotonic() + wait_s
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)


def main() -> None:
    """Guard until the parent closes the pipe or dies."""
    guarded: set[int] = set()
    patience_s = PATIENCE_S
    for line in sys.stdin:
        if line[0] == "=":
            patience_s = float(line[1:])
        else:
            (guarded.add if line[0] == "+" else guarded.discard)(int(line[1:]))
    end(guarded, patience_s)
    for folder in sys.argv[1:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
