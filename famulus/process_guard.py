"""End the processes that the parent has started, however the parent ends.

The script reads a pipe whose other end only the parent holds. A session of its own keeps Ctrl-C
from it. Lines `+PID` and `-PID` say which processes it guards, `=SECONDS` how long they may take to
end; the argument, if any, is a folder to remove. At the end of the pipe the parent is gone:
SIGTERM, those seconds (5 unless set), SIGKILL.
"""

import contextlib
import os
import shutil
import signal
import sys
import time

PATIENCE_S = 5.0


def is_alive(pid: int) -> bool:
    """Return True if the process exists."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def end(pids: set[int], patience_s: float) -> None:
    """End the processes, by SIGKILL those that have not ended after *patience_s* seconds."""
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
