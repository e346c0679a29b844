"""`faust -A app workers N`: several worker processes of this machine under one parent."""

from pathlib import Path

import click
from faust.cli import argument, option

from famulus.cli.child_command import faust_command, web_host
from famulus.cli.command import Command
from famulus.errors import ConfigError
from famulus.kafka.admin import check_port
from famulus.runtime.children import StopSignals
from famulus.runtime.one_log import OneLog
from famulus.runtime.supervisor import Place, Supervisor

COUNT_MAX = 256
PORT_MAX = 65_535
LEVELS = ["crit", "error", "warn", "info", "debug"]


class workers(Command):  # Faust names the command after the class
    """Run N workers on this machine, with one log, and restart a worker that dies.

    Worker 1 keeps its state in the folder 1 of Worker.DataDir and has its web views at the port,
    worker 2 in the folder 2 and at the next port, and so on. Ctrl-C or SIGTERM stops all of them, a
    second one kills them at once.

    \b
    For example:
    faust -A app workers 4
    faust -A app workers 4 --web-port 7000 --set Worker.Concurrency=50
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        argument("count", metavar="N", type=click.IntRange(1, COUNT_MAX)),
        option(
            "--web-port",
            "-p",
            type=click.IntRange(1, PORT_MAX),
            help="Of worker 1; Worker.WebPort unless set.",
        ),
        option(
            "--loglevel",
            "-l",
            type=click.Choice(LEVELS),
            default="info",
            show_default=True,
            help="Of the log.",
        ),
    ]

    async def run(self, count: int, web_port: int | None, loglevel: str) -> None:
        """Run the workers until they are asked to stop.

        Raises SystemExit with the most severe exit code of the workers, ConfigError when there are
        too few ports.
        """
        worker = self.app.settings.worker
        first = web_port or worker.web_port
        if first + count - 1 > PORT_MAX:
            raise ConfigError(
                f"{count} workers need the ports from {first} on, and {PORT_MAX} is the last: --web-port"
            )
        self.app.door.check(worker.web_bind)
        for port in range(first, first + count):
            check_port(worker.web_bind, port)
        width = len(str(count))
        places = [
            self._place(
                f"{number:{width}}", worker.data_dir / str(number), first + number - 1, loglevel
            )
            for number in range(1, count + 1)
        ]
        with StopSignals() as stop:
            async with OneLog() as log:
                code = await Supervisor(places, stop, log, worker.stop_timeout_s).run()
        raise SystemExit(code)

    def _place(self, name: str, folder: Path, port: int, loglevel: str) -> Place:
        worker = "worker", "--loglevel", loglevel, "--web-port", str(port)
        command = [*faust_command(self.ctx, *worker), "--set", f"Worker.DataDir={folder}"]
        host = web_host(self.app.settings.worker.web_bind)
        return Place(name, command, f"web views at http://{host}:{port}/, state in {folder}")
