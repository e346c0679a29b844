"""Commands as they run in a process of their own, one after the other: it is imported once, then each has a fork.

Run as a program, it reads cases from standard input, and writes how each one ended.
"""

import json
import os
import pty
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO

from tests.support.places import PROJECT


def run(cases: list[dict[str, object]], **environment: str) -> list[dict[str, object]]:
    """How each of *cases* ended: its exit code, and what it wrote, with every byte as a character."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.in_memory.streaming"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
        timeout=120,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", **environment},
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _ended(case: dict[str, object]) -> dict[str, object]:
    """Run one in a fork.

    *out* says what its standard output is: full, gone, terminal, else a file.
    """
    kind = case.get("out")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        read, write = pty.openpty() if kind == "terminal" else os.pipe()
        child = os.fork()
        if not child:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(
                {"full": full, "gone": write, "terminal": write}.get(str(kind), out.fileno()), 1
            )
            os.dup2(err.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.closerange(3, 256)
            for name in str(case.get("closed", "")).split():
                os.close(int(name))
            _command(case)
        os.close(write)
        if kind == "terminal":
            with suppress(OSError):  # when nobody writes to it any more
                while part := os.read(read, 4096):
                    out.write(part)
        os.close(read)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return {"code": code, "out": _all(out), "err": _all(err)}


def _command(case: dict[str, object]) -> None:
    closed = str(case.get("closed", "")).split()
    names = ("stdin", "stdout", "stderr")
    for number, name in enumerate(names):
        mode = "r" if number == 0 else "w"
        encoding = str(case.get("encoding", "utf-8"))
        stream = (
            None if str(number) in closed else open(number, mode, encoding=encoding, closefd=False)
        )
        setattr(sys, name, stream)
    # JSON.
    sys.argv = ["faust", "-A", "app", *map(str, case["command"])]  # type: ignore[call-overload]
    from faust.cli.faust import cli  # it is imported by then

    code = 0
    try:
        cli()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _all(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("latin-1")


if __name__ == "__main__":
    import app as _app  # noqa: F401  # before the forks

    for each in json.load(sys.stdin):
        print(json.dumps(_ended(each)), flush=True)  # its answer
