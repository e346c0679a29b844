"""`faust -A app dev`: a broker and a reloading worker under one command."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import click
from faust.cli import option

from famulus.cli.child_command import faust_command, web_host
from famulus.cli.command import Command
from famulus.cli.dev.broker import DevBroker, broker_of
from famulus.cli.dev.changes import Changes
from famulus.cli.dev.reloader import Reloader, Served
from famulus.cli.dev.worker import NAME
from famulus.config.settings import read_settings, settings_files
from famulus.errors import ConfigError, StreamError
from famulus.kafka.admin import check_port
from famulus.runtime.children import SIGNALS, StopSignals
from famulus.standard_streams import ReaderGoneError
from famulus.webserver.auth import ADMIN_FILE

LEVELS = ["crit", "error", "warn", "info", "debug"]
QUICK = {
    "PYTHONUNBUFFERED": "1",
    # Python identifies a compiled file by the second and size of its source, and would ignore a
    # save that changes neither.
    "PYTHONDONTWRITEBYTECODE": "1",
}


class dev(Command):  # Faust names the command after the class
    """Run a Kafka broker and a worker, and restart the worker whenever a file is saved.

    Ctrl-C ends the command and its worker. The command watches agents/, models/, app/ and
    appsettings*.json. Missing topics are created. The broker is the one that
    KAFKA_BOOTSTRAP_SERVERS names, else the one of `faust -A app broker start`, else one of the
    command's own, which ends with it. State and topics are kept in Worker.DataDir.

    \b
    For example:
    faust -A app dev
    faust -A app dev --web-port 7000 --loglevel warn
    """  # \b keeps click from rewrapping the paragraph

    options = [  # Faust reads a list here
        option(
            "--web-port",
            "-p",
            type=click.IntRange(1, 65_535),
            help="Of the web views; Worker.WebPort unless set.",
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

    async def run(self, web_port: int | None, loglevel: str) -> None:
        """Run until stopped.

        Raises SystemExit with the worker's exit code, OperatingError when something needed is
        missing.
        """
        worker = self.app.settings.worker
        self.app.door.check(worker.web_bind)
        check_port(worker.web_bind, web_port or worker.web_port)
        changes = Changes(self.app.project_folder, settings_files()[0].parent)
        async with changes.watched():
            with StopSignals() as stop, ExitStack() as running:
                with _ended_by_signals():
                    broker = running.enter_context(broker_of(self.app.settings))
                self._tell(broker.about)
                code = await Reloader(
                    lambda: self._served(broker, web_port, loglevel),
                    changes,
                    stop,
                    self._tell,
                    self._tell_ready,
                ).run()
        raise SystemExit(code)

    def _served(self, broker: DevBroker, web_port: int | None, loglevel: str) -> Served:
        """Describe how to start the worker by the current settings.

        Wrong settings are ignored here, because the worker reports them at its start.
        """
        worker = self.app.settings.worker
        with suppress(ConfigError):
            worker = read_settings().worker
        port = web_port or worker.web_port
        command = faust_command(self.ctx, NAME, "--loglevel", loglevel, "--web-port", str(port))
        variables = {**broker.variables, **QUICK}
        return Served(command, variables, web_host(worker.web_bind), port, worker.stop_timeout_s)

    def _tell_ready(self, served: Served, seconds: float) -> None:
        """Print that the worker is ready, with the address of the console and the login."""
        token = Path(self.app.settings.worker.data_dir) / ADMIN_FILE
        way_in = "log in with a token of your settings"
        with suppress(OSError, ConfigError):
            if not self.app.door.is_given:
                way_in = f"log in with {token.read_text('ascii').strip()}"
        self._tell(
            f"ready after {seconds:.1f} s: http://{served.host}:{served.port}/console, {way_in}"
        )

    def _tell(self, line: str) -> None:
        """Print *line*, unless the terminal is gone.

        Without a terminal the command ends soon, and an error here would disturb its shutdown.
        """
        with suppress(StreamError, ReaderGoneError):
            self.say(f"dev: {line}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Raise SystemExit on a stop signal while the broker starts.

    The start of the broker blocks the event loop, which therefore cannot handle signals.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
