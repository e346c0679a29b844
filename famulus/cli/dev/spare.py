"""Spare process that has imported the engine, and waits to become the worker.

Run as `python -m famulus.cli.dev.spare WORDS...`. A line on standard input has it run `faust
WORDS...`, then only the project is left to import. The end of standard input ends it. The imports
begin after a short delay, because the previous worker is just starting, or as soon as the line
comes.
"""

import importlib
import os
import pkgutil
import runpy
import select
import sys

REST_S = 3.0
FIRST = "faust.cli.faust", "famulus.application", "famulus.web.routes"
LATER = (  # modules that Faust imports lazily
    "faust.topics",
    "faust.app.router",
    "faust.fixups.django",
    "faust.tables.objects",
    "faust.tables.sets",
    "faust.assignor.leader_assignor",
    "faust.worker",
)


def main() -> None:
    """Import the engine, wait for the line, then run `faust`."""
    select.select([0], [], [], REST_S)
    # Faust reads the arguments when it is imported, and keeps a reference to this list.
    sys.argv[0] = "faust"
    for name in (*FIRST, *LATER):
        importlib.import_module(name)
    commands = importlib.import_module("famulus.cli")
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    if not os.read(0, 1):
        raise SystemExit
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    runpy.run_module("faust.__main__", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
